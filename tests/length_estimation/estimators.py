"""Estimators that serve, and questions for them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from length_estimation.online.estimator import OnlineEstimator
from wire.length import LengthQuestion

PATIENCE_S = 60.0
"""The deadline where a test is not about it."""


@asynccontextmanager
async def running(folder: Path, **settings: Any) -> AsyncIterator[OnlineEstimator]:
    """An estimator that serves."""
    estimator = OnlineEstimator(folder, **({"deadline_s": PATIENCE_S} | settings))
    await estimator.start()
    try:
        yield estimator
    finally:
        await estimator.close()


def asking(text: str = "how are you?", **fields: Any) -> LengthQuestion:
    """A question."""
    return LengthQuestion(text=text, **({"num_prompt_tokens": 20} | fields))
