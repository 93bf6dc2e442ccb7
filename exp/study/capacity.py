"""The search for the highest rate that a system keeps up with: bracketing, then bisection.

Rates come from one geometric grid for all systems and seeds, so that systems meet on the same
traces wherever they are asked for the same rate. Several limits share their runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

FIRST_STRIDE = 1.2
"""To the second rate tried; strides double while no bracket is found."""
WIDEST = 16.0
"""The search ends at so many times its first rate, and at that part of it."""
ANSWERED_SHARE = 0.99
"""Of the requests, at least."""


class CapacitySearch:
    """The capacity of one system on one seed's traces, under one limit or more."""

    def __init__(self, near_per_s: float, step: float, limits_ms: Sequence[float]) -> None:
        """``near_per_s`` is tried first; neighbours on the grid are a factor of ``step`` apart."""
        self._near_per_s, self._step = near_per_s, step
        self._limits_ms = sorted(limits_ms)
        self._stride = max(1, round(math.log(FIRST_STRIDE) / math.log(step)))
        self._widest = math.ceil(math.log(WIDEST) / math.log(step))
        self._ttft_ms: dict[int, float] = {}
        self._given_up = False

    def next_rate(self) -> float | None:
        """To be run next; None: nothing more is needed."""
        if self._given_up:
            return None
        for limit_ms in self._limits_ms:
            index = self._next_index(limit_ms)
            if index is not None:
                return self._rate(index)
        return None

    def add(self, rate_per_s: float, figures: Mapping[str, float]) -> None:
        """What a run at that rate came to: figures as in ``figures.py``."""
        answered = figures.get("all.answered_share", 0.0) >= ANSWERED_SHARE
        ttft_ms = figures.get("all.ttft_ms.p99", math.inf)
        self._ttft_ms[self._index(rate_per_s)] = ttft_ms if answered else math.inf

    def give_up(self) -> None:
        """A run has failed: there is no answer."""
        self._given_up = True

    def capacity_per_s(self, limit_ms: float) -> float | None:
        """The highest rate tried that kept the limit; None if none did."""
        low, _ = self._bracket(limit_ms)
        return None if low is None or self._given_up else self._rate(low)

    def _rate(self, index: int) -> float:
        return float(f"{self._near_per_s * self._step**index:.6g}")

    def _index(self, rate_per_s: float) -> int:
        return round(math.log(rate_per_s / self._near_per_s) / math.log(self._step))

    def _bracket(self, limit_ms: float) -> tuple[int | None, int | None]:
        """The highest that keeps the limit, and the lowest above it that does not."""
        kept = [index for index, ttft_ms in self._ttft_ms.items() if ttft_ms <= limit_ms]
        low = max(kept, default=None)
        missed = [
            index
            for index, ttft_ms in self._ttft_ms.items()
            if ttft_ms > limit_ms and (low is None or index > low)
        ]
        return low, min(missed, default=None)

    def _next_index(self, limit_ms: float) -> int | None:
        if not self._ttft_ms:
            return 0
        low, high = self._bracket(limit_ms)
        stride = max(self._stride, max(self._ttft_ms) - min(self._ttft_ms))
        if low is None:
            assert high is not None
            return max(high - stride, -self._widest) if high > -self._widest else None
        if high is None:
            return min(low + stride, self._widest) if low < self._widest else None
        return (low + high) // 2 if high - low > 1 else None
