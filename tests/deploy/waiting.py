"""Waiting for what happens in other processes."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Return as soon as the condition holds; fail the test when it does not in time, which is long
    enough for a machine a tenth as fast."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"did not happen within {timeout_s:.0f} s"
        time.sleep(0.02)
