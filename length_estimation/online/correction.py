"""Corrects predicted distributions by what was observed. Pure.

All is in natural logarithms of tokens, so a shift is a factor. Two corrections follow one another:
a line, which moves the medians (a served model may be three times as verbose as those of the
training data, or may care less about the prompt), and a map of shapes, which is quantile
recalibration: it moves each quantile of the residuals to where so many residuals really were.

Either starts from no correction and is held to it by a prior worth a few observations. Answers
that were cut off at ``max_tokens`` count as at least so long: for the line each is put where the
prediction expects its uncut length, for the shape the weight of each is passed on to all longer
ones (Kaplan and Meier's estimate; Efron, "The two sample problem with censored data", 1967).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

LARGEST_FACTOR = 100.0
"""By which the line multiplies or divides a median at most."""
SHIFT_PRIOR = 5.0
"""How many observations it takes to move the medians half of the way."""
TILT_PRIOR = 5.0
"""The same for the slope, in observations that lie a factor e away from the typical one."""
SHAPE_PRIOR = 25
"""Weight of the predicted shape, in observations."""
HUBER = 1.0
"""Observations further than a factor e from the line pull at it no more than those at a factor e,
so that a single absurd one does little."""
MAX_ITERATIONS = 10
CLOSE = 1e-3
LEAST_SPREAD = 0.05


class Observations(NamedTuple):
    """Predictions and what came of them, side by side."""

    log_quantiles: Floats
    """(observations, levels)"""
    log_tokens: Floats
    """(observations,)"""
    is_cut: Bools
    """(observations,): the answer would have gone on."""


@dataclass(frozen=True, slots=True)
class Correction:
    """How to correct the quantiles at fixed levels of one served model."""

    levels: Floats
    centre: float
    """The median about which the slope turns."""
    shift: float
    tilt: float
    """The slope less 1."""
    shape: Floats
    """Quantiles of normalised residuals as predicted, rising."""
    shape_change: Floats
    """What is added to each of them."""

    def apply(self, log_quantiles: Floats) -> Floats:
        """Corrected quantiles (levels,), rising."""
        medians, spreads = _normalisers(self.levels, log_quantiles[None])
        median, spread = medians[0], spreads[0]
        residuals = (log_quantiles - median) / spread
        residuals = residuals + np.interp(residuals, self.shape, self.shape_change)
        moved = median + _bounded(self.shift + self.tilt * (median - self.centre))
        corrected: Floats = moved + spread * residuals
        return corrected


def fit(levels: Floats, seen: Observations) -> Correction:
    """The correction for one served model, from at least one observation."""
    medians, spreads = _normalisers(levels, seen.log_quantiles)
    centre = float(medians.mean())
    shape = ((seen.log_quantiles - medians[:, None]) / spreads[:, None]).mean(axis=0)
    errors = _bounded(seen.log_tokens - medians)
    line = _Line(medians - centre)
    for _ in range(MAX_ITERATIONS):
        residuals = (errors - line.values()) / spreads
        expected = np.where(seen.is_cut, _uncut(residuals, levels, shape), residuals)
        if line.move(expected * spreads) < CLOSE:
            break
    predicted = np.interp((np.arange(SHAPE_PRIOR) + 0.5) / SHAPE_PRIOR, levels, shape)
    not_cut: Bools = np.zeros(SHAPE_PRIOR, dtype=np.bool_)
    before = quantiles(levels, predicted, not_cut)
    residuals = np.concatenate([predicted, (errors - line.values()) / spreads])
    after = quantiles(levels, residuals, np.concatenate([not_cut, seen.is_cut]))
    return Correction(levels, centre, line.shift, line.tilt, before, after - before)


def quantiles(levels: Floats, values: Floats, is_cut: Bools) -> Floats:
    """Of values of which some are only lower bounds, not the least of them all."""
    order = np.lexsort((is_cut, values))
    values, is_cut = values[order], is_cut[order]
    num_left = np.arange(len(values), 0, -1)
    survival = np.cumprod(np.where(is_cut, 1.0, 1.0 - 1.0 / num_left))
    weights = -np.diff(survival, prepend=1.0)
    weights[-1] += survival[-1]
    middles = np.cumsum(weights) - weights / 2
    is_known = weights > 0
    found: Floats = np.interp(levels, middles[is_known], values[is_known])
    return found


class _Line:
    """What to add to the medians: ``shift + tilt * offset``, found by robust ridge regression."""

    def __init__(self, offsets: Floats) -> None:
        self._offsets = offsets
        self.shift = self.tilt = 0.0

    def values(self) -> Floats:
        values: Floats = self.shift + self.tilt * self._offsets
        return values

    def move(self, residuals: Floats) -> float:
        """One step of reweighted least squares; gives its size."""
        weights = HUBER / np.maximum(np.abs(residuals), HUBER)
        targets = weights * (residuals + self.values())
        tilted = weights * self._offsets
        matrix = [
            [weights.sum() + SHIFT_PRIOR, tilted.sum()],
            [tilted.sum(), tilted @ self._offsets + TILT_PRIOR],
        ]
        shift, tilt = np.linalg.solve(matrix, [targets.sum(), targets @ self._offsets])
        size = max(abs(shift - self.shift), abs(tilt - self.tilt))
        self.shift, self.tilt = float(shift), float(np.clip(tilt, -1.0, 1.0))
        return float(size)


def _uncut(residuals: Floats, levels: Floats, shape: Floats) -> Floats:
    """The median of what lies beyond each residual, if residuals have this shape."""
    level = np.interp(residuals, shape, levels, left=0.0)
    beyond: Floats = np.maximum(residuals, np.interp((1.0 + level) / 2, levels, shape))
    return beyond


def _normalisers(levels: Floats, log_quantiles: Floats) -> tuple[Floats, Floats]:
    """Median and spread of each row; from the nearest levels, for they need only be typical."""
    low, middle, high = (int(np.abs(levels - level).argmin()) for level in (0.1, 0.5, 0.9))
    spreads = np.maximum(log_quantiles[:, high] - log_quantiles[:, low], LEAST_SPREAD)
    return log_quantiles[:, middle], spreads


def _bounded(errors: Floats) -> Floats:
    most = math.log(LARGEST_FACTOR)
    bounded: Floats = np.clip(errors, -most, most)
    return bounded
