"""How good predictions of output lengths are. Pure: numbers in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

INTERVAL = (0.1, 0.9)
"""The levels between which four answers in five shall end."""


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a method expects of some requests."""

    tokens: NDArray[np.float64]
    """(requests,): the one number that stands for each; a median but for the method `mean`."""
    log_quantiles: NDArray[np.float64]
    """(requests, levels): natural logarithms of tokens, rising along the levels."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Figures of one method; y is the true number of output tokens, p the predicted one."""

    mae: float
    """Mean of ``|p - y|``, tokens."""
    mape: float
    """Mean of ``|p - y| / y``, a fraction."""
    acc_50: float
    """Share of requests with ``|p - y| <= 50`` tokens."""
    acc_100: float
    """Share of requests with ``|p - y| <= 100`` tokens."""
    kendall_tau: float
    """Kendall's tau-b of p and y, -1 to 1; 0 where one of them is constant and ranks nothing."""
    r2: float
    """``1 - sum (y - p)^2 / sum (y - mean y)^2``; 0 where y is constant and p is not y."""
    pinball: float
    """Mean over requests and levels a of ``max(a d, (a - 1) d)``, where d is ``ln y`` less the
    logarithm of the quantile a. Lower is better; a median alone costs half its absolute error."""
    coverage_80: float
    """Share of requests with y within the quantiles 0.1 and 0.9, both included."""


def accuracy(
    num_output_tokens: NDArray[np.int64], predictions: Predictions, levels: Sequence[float]
) -> Accuracy:
    """Compare predictions with the true numbers of output tokens, each at least 1.

    Raises:
        ValueError: there is no request, shapes do not match, a number is not finite, an answer is
            empty, or a level that is needed is missing.
    """
    true = np.asarray(num_output_tokens, dtype=np.float64)
    _check(true, predictions, levels)
    errors = np.abs(predictions.tokens - true)
    return Accuracy(
        mae=float(errors.mean()),
        mape=float((errors / true).mean()),
        acc_50=float((errors <= 50).mean()),
        acc_100=float((errors <= 100).mean()),
        kendall_tau=_kendall_tau(predictions.tokens, true),
        r2=_r2(predictions.tokens, true),
        pinball=_pinball(np.log(true), predictions.log_quantiles, np.array(levels)),
        coverage_80=_coverage(true, predictions.log_quantiles, levels),
    )


def _check(true: NDArray[np.float64], predictions: Predictions, levels: Sequence[float]) -> None:
    if not len(true):
        raise ValueError("no request to compare predictions of")
    if true.min() < 1:
        raise ValueError(f"num_output_tokens must be at least 1, not {true.min():g}")
    for name, found, want in (
        ("tokens", predictions.tokens, true.shape),
        ("log_quantiles", predictions.log_quantiles, (len(true), len(levels))),
    ):
        if found.shape != want:
            raise ValueError(f"{name} has shape {found.shape}, not {want}")
        if not np.isfinite(found).all():
            raise ValueError(f"{name} has values that are not finite")
    missing = set(INTERVAL) - set(levels)
    if missing:
        raise ValueError(f"the interval needs the quantile {min(missing)}; levels are {levels}")


def _kendall_tau(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    if len(true) < 2:
        return 0.0
    tau = float(kendalltau(predicted, true).statistic)
    return 0.0 if math.isnan(tau) else tau


def _r2(predicted: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    missed = float(np.square(true - predicted).sum())
    total = float(np.square(true - true.mean()).sum())
    if total == 0:
        return float(missed == 0)
    return 1 - missed / total


def _pinball(
    log_true: NDArray[np.float64],
    log_quantiles: NDArray[np.float64],
    levels: NDArray[np.float64],
) -> float:
    above = log_true[:, None] - log_quantiles
    return float(np.maximum(levels * above, (levels - 1) * above).mean())


def _coverage(
    true: NDArray[np.float64], log_quantiles: NDArray[np.float64], levels: Sequence[float]
) -> float:
    low, high = (np.exp(log_quantiles[:, levels.index(level)]) for level in INTERVAL)
    # A quantile that is a number of tokens must stay one through logarithm and back.
    slack = 1e-6
    return float(((low * (1 - slack) <= true) & (true <= high * (1 + slack))).mean())
