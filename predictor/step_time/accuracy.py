"""How well predicted step times agree with observed ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Of a set of steps; NaN where there are too few to tell."""

    num_steps: int
    r2: float
    """The share of the times' variance that the prediction explains."""
    mape: float
    """Mean of |predicted - observed| / observed; 0.1 is ten percent."""


def accuracy(observed_s: Sequence[float], predicted_s: Sequence[float]) -> Accuracy:
    """Compare times in seconds, one of each for every step."""
    observed, predicted = np.asarray(observed_s, dtype=float), np.asarray(predicted_s, dtype=float)
    if not observed.size:
        return Accuracy(0, float("nan"), float("nan"))
    variance = float(observed.var())
    error = float(((predicted - observed) ** 2).mean())
    return Accuracy(
        num_steps=observed.size,
        r2=1 - error / variance if variance else float("nan"),
        mape=float((np.abs(predicted - observed) / observed).mean()),
    )
