"""Values over seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from exp.study.results import Interval

RESAMPLES = 10_000
SEED = 20_240_609
"""Of the resampling: the same runs give the same intervals."""


def median(values: Sequence[float]) -> Interval:
    """With a 95 % percentile bootstrap interval (Efron, 1979). One value is its own interval."""
    return _bootstrap(values, np.median)


def mean(values: Sequence[float]) -> Interval:
    """As ``median``."""
    return _bootstrap(values, np.mean)


def _bootstrap(values: Sequence[float], statistic: Callable[..., Any]) -> Interval:
    array = np.asarray(values, dtype=float)
    picks = np.random.default_rng(SEED).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.percentile(statistic(array[picks], axis=1), (2.5, 97.5))
    rounded = (round(float(value), 6) for value in (statistic(array), low, high))
    value, low, high = rounded
    return Interval(value=value, low=low, high=high)
