"""Learns the residual of one latency: windows by load region, corrections, drift."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.calibration.drift import DriftDetector
from predictor.calibration.figures import LatencyFigures
from predictor.calibration.regions import REGIONS, Region
from predictor.calibration.residual import Correction, Sample, fit, median

WINDOW = 256
"""Observations remembered for each region; older ones are forgotten."""
LEAST_SAMPLES = 16
"""Observations of all regions before anything is corrected."""
LEAST_IN_REGION = 8


_FORGOTTEN = -1


class _Outcome(NamedTuple):
    """One corrected prediction and what came of it."""

    error: float
    """``(predicted - observed) / observed``."""
    is_within_p90: bool


class _Window:
    """The last samples of a region with their numbers."""

    def __init__(self) -> None:
        self.num_kept = 0
        self.num_new = 0
        """Samples since the region was last fitted."""
        self._rows = np.empty((WINDOW, len(Sample._fields)))
        self._numbers = np.full(WINDOW, _FORGOTTEN)
        self._next = 0

    def add(self, number: int, sample: Sample) -> None:
        self.num_kept += int(self._numbers[self._next] == _FORGOTTEN)
        self.num_new += 1
        self._rows[self._next] = sample
        self._numbers[self._next] = number
        self._next = (self._next + 1) % WINDOW

    def forget_before(self, number: int) -> None:
        self._numbers[self._numbers < number] = _FORGOTTEN
        self.num_kept = int(np.count_nonzero(self._numbers != _FORGOTTEN))

    def samples(self) -> NDArray[np.float64]:
        kept: NDArray[np.float64] = self._rows[self._numbers != _FORGOTTEN]
        return kept

    def is_due(self) -> bool:
        """An eighth of the samples is new, or the first of them."""
        return self.num_new > self.num_kept // 8


class LatencyLearner:
    """One latency of one unit. ``corrections`` is complete at any time."""

    def __init__(self) -> None:
        self.corrections: dict[Region, Correction] = dict.fromkeys(REGIONS, Correction())
        self.typical_ratio = 1.0
        """Observed over predicted, at the median of all regions."""
        self._windows = {region: _Window() for region in REGIONS}
        self._outcomes: deque[_Outcome] = deque(maxlen=WINDOW)
        self._drift = DriftDetector()
        self._num_samples = 0
        self._is_settled = False
        """False until there are enough samples, and again after a drift."""

    def observe(self, region: Region, sample: Sample, now_s: float) -> None:
        """Note one request; corrections change with ``refit`` only."""
        self._num_samples += 1
        correction = self.corrections[region]
        corrected_ms = correction.mean_ms(sample.reference_ms)
        is_within_p90 = sample.observed_ms <= _upper_ms(correction, sample)
        self._outcomes.append(_Outcome(corrected_ms / sample.observed_ms - 1.0, is_within_p90))
        self._windows[region].add(self._num_samples, sample)
        if self._is_settled:
            error = math.log(sample.observed_ms / corrected_ms) / correction.spread
            self._watch(error, now_s)

    def refit(self) -> bool:
        """Fit one region anew if its samples have changed enough; False if there is none.

        One at a time, for predictions wait meanwhile (about half a millisecond); another region
        leans on the new general correction when it is its turn.
        """
        due = [region for region, window in self._windows.items() if window.is_due()]
        if not due or sum(window.num_kept for window in self._windows.values()) < LEAST_SAMPLES:
            return False
        samples = {region: window.samples() for region, window in self._windows.items()}
        together = np.concatenate(list(samples.values()))
        general = fit(together)
        self.typical_ratio = median(together[:, -1] / together[:, 0])
        for region, own in samples.items():
            if len(own) < LEAST_IN_REGION:
                self.corrections[region] = general
            elif region == due[0] or not self._is_settled:
                self.corrections[region] = fit(own, general)
            else:
                continue
            self._windows[region].num_new = 0
        self._is_settled = True
        return True

    def figures(self, now_s: float) -> LatencyFigures:
        """For metrics."""
        errors = np.array([outcome.error for outcome in self._outcomes])
        within = [outcome.is_within_p90 for outcome in self._outcomes]
        known = len(errors) > 0
        return LatencyFigures(
            num_samples=self._num_samples,
            median_abs_error=float(np.median(np.abs(errors))) if known else None,
            bias=float(np.median(errors)) if known else None,
            p90_coverage=sum(within) / len(within) if known else None,
            factor={region: c.factor for region, c in self.corrections.items()},
            added_ms={region: c.added_ms for region, c in self.corrections.items()},
            drift=self._drift.statistic,
            drift_alarm=self._drift.is_alarmed(now_s),
            num_drifts=self._drift.num_drifts,
        )

    def _watch(self, error: float, now_s: float) -> None:
        """Forget what is older than a drift. The corrections hold until enough is known anew."""
        began = self._drift.update(error, self._num_samples, now_s)
        if began is not None:
            self._is_settled = False
            for window in self._windows.values():
                window.forget_before(began)


def _upper_ms(correction: Correction, sample: Sample) -> float:
    return max(correction.p50_ms(sample.p50_ms), correction.p90_ms(sample.p90_ms))
