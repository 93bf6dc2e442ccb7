"""The residual between predicted and observed: robust fits over the last observations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

LARGEST_FACTOR = 4.0
"""Factors and ratios stay within this and its inverse."""
LEAST_ADDED_MS, MOST_ADDED_MS = -100.0, 250.0
LEAST_SPREAD = 0.1
PSEUDO_SAMPLES = 4.0
"""Observations' worth of belief that nothing is added: predictions of much the same size cannot
tell a factor from an addition."""
EQUAL_WEIGHT_SAMPLES = 16
"""With as many observations a region's own residual counts as much as that of all regions."""
HUBER = 1.345
"""Errors within this many spreads count fully (95 % efficient on a normal distribution)."""
ITERATIONS = 4


class Sample(NamedTuple):
    """One observation next to what was predicted, uncorrected; all above 0, in milliseconds."""

    reference_ms: float
    """What the model says, given the true output length."""
    p50_ms: float
    p90_ms: float
    observed_ms: float


@dataclass(frozen=True, slots=True)
class Correction:
    """How a raw latency becomes a calibrated one; the default changes nothing."""

    factor: float = 1.0
    added_ms: float = 0.0
    p50_ratio: float = 1.0
    p90_ratio: float = 1.0
    spread: float = LEAST_SPREAD
    """Robust standard deviation of ``log(observed / corrected)``."""

    def mean_ms(self, raw_ms: float) -> float:
        """The corrected value; 0 (no such latency) stays 0."""
        if raw_ms <= 0.0:
            return 0.0
        corrected_ms, least_ms = self.factor * raw_ms + self.added_ms, raw_ms / LARGEST_FACTOR
        return least_ms if corrected_ms < least_ms else corrected_ms

    def means_ms(self, raw_ms: NDArray[np.float64]) -> NDArray[np.float64]:
        """``mean_ms`` of many, all above 0."""
        means: NDArray[np.float64] = np.maximum(
            self.factor * raw_ms + self.added_ms, raw_ms / LARGEST_FACTOR
        )
        return means

    def p50_ms(self, raw_ms: float) -> float:
        """The corrected median."""
        return self.p50_ratio * self.mean_ms(raw_ms)

    def p90_ms(self, raw_ms: float) -> float:
        """The corrected 90th percentile."""
        return self.p90_ratio * self.mean_ms(raw_ms)


def fit(samples: NDArray[np.float64], general: Correction | None = None) -> Correction:
    """The correction that suits samples, leaning on a general one where they are few.

    Args:
        samples: rows of the fields of ``Sample``, at least one.
        general: None to go by the samples alone.
    """
    reference, p50, p90, observed = samples.T
    factor, added = _line(reference, observed)
    weight = 1.0
    if general is not None:
        weight = len(samples) / (len(samples) + EQUAL_WEIGHT_SAMPLES)
        factor = _between(general.factor, factor, weight)
        added = general.added_ms + weight * (added - general.added_ms)
    line = Correction(factor, added)
    # Compared with the line that will be used, so that p50 and p90 make good what it lacks.
    error, p50_error, p90_error = (
        np.log(observed / line.means_ms(raw)) for raw in (reference, p50, p90)
    )
    spread = max(LEAST_SPREAD, _spread(error - median(error)))
    p50_ratio, p90_ratio = _ratio(p50_error, 0.5), _ratio(p90_error, 0.9)
    if general is not None:
        p50_ratio = _between(general.p50_ratio, p50_ratio, weight)
        p90_ratio = _between(general.p90_ratio, p90_ratio, weight)
        spread = _between(general.spread, spread, weight)
    return Correction(factor, added, p50_ratio, p90_ratio, spread)


def _between(general: float, special: float, weight: float) -> float:
    """The geometric mean; weight 1 is the special one."""
    return general * math.exp(weight * math.log(special / general))


def _line(raw: NDArray[np.float64], observed: NDArray[np.float64]) -> tuple[float, float]:
    """Factor and addition with the least relative error, by Huber's iterated weights."""
    factor, added = bounded_factor(median(observed / raw)), 0.0
    for _ in range(ITERATIONS):
        line = Correction(factor, added).means_ms(raw)
        error = (observed - line) / line
        tolerated = HUBER * max(_spread(error), 0.01)
        weight = np.minimum(1.0, tolerated / np.maximum(np.abs(error), 1e-9)) / line**2
        weight /= weight.sum()
        raw_mean, observed_mean = float(weight @ raw), float(weight @ observed)
        deviation = weight * (raw - raw_mean)
        belief = PSEUDO_SAMPLES / len(raw) * raw_mean**2
        slope = (float(deviation @ observed) + belief * observed_mean / raw_mean) / (
            float(deviation @ raw) + belief
        )
        factor = bounded_factor(slope)
        added = min(max(observed_mean - factor * raw_mean, LEAST_ADDED_MS), MOST_ADDED_MS)
    return factor, added


def bounded_factor(factor: float) -> float:
    """Within the limits of every correction."""
    return min(max(factor, 1.0 / LARGEST_FACTOR), LARGEST_FACTOR)


def median(values: NDArray[np.float64]) -> float:
    """As numpy's, which takes several times as long for a few hundred values."""
    ordered, half = np.sort(values), len(values) // 2
    return float(ordered[half] + ordered[~half]) / 2


def quantile(values: NDArray[np.float64], probability: float) -> float:
    """As numpy's; see ``median``."""
    ordered, place = np.sort(values), probability * (len(values) - 1)
    below = min(int(place), len(values) - 2)
    if below < 0:
        return float(ordered[0])
    share, lower, upper = place - below, float(ordered[below]), float(ordered[below + 1])
    if share < 0.5:
        return lower + (upper - lower) * share
    return upper - (upper - lower) * (1.0 - share)


def _spread(errors: NDArray[np.float64]) -> float:
    """The standard deviation of a normal distribution with this median absolute value."""
    return 1.4826 * median(np.abs(errors))


def _ratio(errors: NDArray[np.float64], probability: float) -> float:
    # One more than half (nine tenths) of the samples: the next one is the n+1st.
    rank = min(1.0, probability * (len(errors) + 1) / len(errors))
    return bounded_factor(math.exp(min(quantile(errors, rank), 700.0)))
