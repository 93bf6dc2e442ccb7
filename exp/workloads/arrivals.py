"""When requests arrive: a renewal process whose rate changes from stretch to stretch. Pure."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from exp.study.case import Arrivals

STRETCHES_PER_PERIOD = 96
"""Of a diurnal rate: steps of a quarter of an hour in a day."""


class Stretch(NamedTuple):
    """A rate, and up to when it lasts; it begins where the one before ends."""

    end_s: float
    rate_per_s: float


@dataclass(frozen=True, slots=True)
class Rates:
    """Mean arrivals a second."""

    on_per_s: float
    off_per_s: float


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

    def stretches(self, rates: Rates, duration_s: float = math.inf) -> Iterator[Stretch]:
        """The rates of the phases."""
        for _, end_s, is_on in self.until(duration_s):
            yield Stretch(end_s, rates.on_per_s if is_on else rates.off_per_s)

    def rates_of_mean(self, mean_per_s: float, off_share: float) -> Rates:
        """Rates with this mean, that in OFF phases being a share of that in ON phases.

        Raises:
            ValueError: nothing would ever arrive.
        """
        weight = self.on_s + self.off_s * off_share
        if weight <= 0:
            raise ValueError("with no ON phases (on_s 0), off_share must be above 0")
        on_per_s = mean_per_s * (self.on_s + self.off_s) / weight
        return Rates(on_per_s, on_per_s * off_share)


def arrivals_s(
    stretches: Iterable[Stretch], burstiness: float, rng: random.Random
) -> Iterator[float]:
    """Times from the start, ascending, up to the end of the last stretch.

    ``burstiness`` is what vLLM's benchmark calls so: the shape of gamma-distributed gaps. 1 is a
    Poisson process, less comes in bursts, more is more regular. Gaps are drawn for a rate of one
    and stretched by the rates that they cross, so that a stretch without arrivals keeps none.
    """
    left, now_s = _gap(burstiness, rng), 0.0
    for end_s, rate in stretches:
        while rate > 0 and now_s + left / rate < end_s:
            now_s += left / rate
            yield now_s
            left = _gap(burstiness, rng)
        left -= (end_s - now_s) * rate
        now_s = end_s


def drawn_arrivals_s(arrivals: Arrivals, rate_per_s: float, rng: random.Random) -> Iterator[float]:
    """Endless times of any kind but ``trace``.

    Raises:
        ValueError: phases that make no sense.
    """
    burstiness = arrivals.burstiness if arrivals.kind in ("gamma", "on_off") else 1.0
    return arrivals_s(_stretches(arrivals, rate_per_s), burstiness, rng)


def _stretches(arrivals: Arrivals, rate_per_s: float) -> Iterator[Stretch]:
    if arrivals.kind == "on_off":
        phases = Phases(arrivals.on_s, arrivals.off_s)
        return phases.stretches(phases.rates_of_mean(rate_per_s, arrivals.off_share))
    if arrivals.kind == "diurnal":
        return _diurnal(arrivals, rate_per_s)
    return iter([Stretch(math.inf, rate_per_s)])


def _diurnal(arrivals: Arrivals, rate_per_s: float) -> Iterator[Stretch]:
    """A sine, in steps; it begins at the mean and rises."""
    length_s = arrivals.period_s / STRETCHES_PER_PERIOD
    for index in itertools.count():
        swing = math.sin(2 * math.pi * (index + 0.5) / STRETCHES_PER_PERIOD)
        yield Stretch((index + 1) * length_s, rate_per_s * (1 + arrivals.depth * swing))


def _gap(burstiness: float, rng: random.Random) -> float:
    return rng.gammavariate(burstiness, 1.0 / burstiness)
