"""Tells a lasting change from noise: a two-sided CUSUM (Page 1954) over errors."""

from __future__ import annotations

SLACK = 1.0
"""Mean errors below this many spreads are noise."""
THRESHOLD = 20.0
"""Requests of one moment err alike; a lower threshold would take that for drift."""
LARGEST_ERROR = 3.0
"""What one observation can add: a few absurd ones in a row are no drift."""
ALARM_HOLD_S = 60.0
"""An alarm lasts at least this long, so that no scrape misses it."""


class DriftDetector:
    """Watches one latency's errors after correction."""

    def __init__(self) -> None:
        self._sums = [0.0, 0.0]
        self._began = [0, 0]
        self._last_drift_s = float("-inf")
        self.num_drifts = 0

    @property
    def statistic(self) -> float:
        """0 without a sign of drift, 1 where it is found."""
        return max(self._sums) / THRESHOLD

    def is_alarmed(self, now_s: float) -> bool:
        """A drift was found within the last ``ALARM_HOLD_S``."""
        return now_s - self._last_drift_s < ALARM_HOLD_S

    def update(self, error: float, number: int, now_s: float) -> int | None:
        """Take the error of observation ``number``; gives the number at which a drift began.

        Args:
            error: ``log(observed / corrected)`` in units of its usual spread.
            number: counts observations.
            now_s: for ``is_alarmed``.
        """
        bounded = min(max(error, -LARGEST_ERROR), LARGEST_ERROR)
        for side, signed in enumerate((bounded, -bounded)):
            if self._sums[side] == 0.0:
                self._began[side] = number
            self._sums[side] = max(0.0, self._sums[side] + signed - SLACK)
            if self._sums[side] > THRESHOLD:
                self._sums = [0.0, 0.0]
                self._last_drift_s = now_s
                self.num_drifts += 1
                return self._began[side]
        return None
