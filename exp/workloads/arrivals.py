"""When requests arrive: a renewal process whose rate follows ON and OFF phases. Pure."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phases:
    """OFF first, then ON, and so on. ``on_s`` 0: always OFF; ``off_s`` 0: always ON."""

    on_s: float
    off_s: float

    def __post_init__(self) -> None:
        """Refuse what never ends or never begins."""
        if min(self.on_s, self.off_s) < 0 or self.on_s + self.off_s <= 0:
            raise ValueError(f"phases of {self.on_s:g} s ON and {self.off_s:g} s OFF make no sense")

    def until(self, duration_s: float) -> Iterator[tuple[float, float, bool]]:
        """(start, end, whether it is ON) of each phase before ``duration_s``."""
        start_s, is_on = 0.0, False
        while start_s < duration_s:
            length_s = self.on_s if is_on else self.off_s
            end_s = min(start_s + length_s, duration_s)
            if end_s > start_s:
                yield start_s, end_s, is_on
            start_s, is_on = end_s, not is_on


@dataclass(frozen=True, slots=True)
class Rates:
    """Mean arrivals a second."""

    on_per_s: float
    off_per_s: float


def arrivals_s(
    phases: Phases, rates: Rates, duration_s: float, burstiness: float, rng: random.Random
) -> Iterator[float]:
    """Times from the start, ascending.

    ``burstiness`` is what vLLM's benchmark calls so: the shape of gamma-distributed gaps. 1 is a
    Poisson process, less comes in bursts, more is more regular. Gaps are drawn for a rate of one
    and stretched by the rate of the phases they cross, so that a phase without arrivals keeps none.
    """
    left = _gap(burstiness, rng)
    for start_s, end_s, is_on in phases.until(duration_s):
        rate, now_s = (rates.on_per_s if is_on else rates.off_per_s), start_s
        while rate > 0 and now_s + left / rate < end_s:
            now_s += left / rate
            yield now_s
            left = _gap(burstiness, rng)
        left -= (end_s - now_s) * rate


def _gap(burstiness: float, rng: random.Random) -> float:
    return rng.gammavariate(burstiness, 1.0 / burstiness)
