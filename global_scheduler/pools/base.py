"""The contract of a pool controller: a pure function from a situation to at most one move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from global_scheduler.queueing.waiting import RequestClass


@dataclass(frozen=True, slots=True)
class PooledUnit:
    """A unit that is capacity: healthy and not draining."""

    name: str
    pool: RequestClass
    active: int
    """Requests in flight."""


@dataclass(frozen=True, slots=True)
class SplitPrice:
    """What the queues would meet with some number of long units, as sidecars predict."""

    num_requests: int
    """That were asked about."""
    num_missed_short: int
    """Latency goals that short requests would miss."""
    num_missed_long: int
    drain_s: float
    """Until the last unit has worked off its share."""
    lateness: float = 0.0
    """Sum over requests of the predicted TTFT over its goal, each at most 1: tells splits apart
    that miss the same goals."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What units that serve the same models have before them."""

    queue_short: int
    queue_long: int
    num_expected_long: int = 0
    """Long requests that are likely to arrive soon."""
    prices: Mapping[int, SplitPrice] | None = None
    """By number of long units, as far as sidecars could be asked; None: nobody has asked."""


@dataclass(frozen=True, slots=True)
class PoolSituation:
    """Units that serve the same models, and what they have before them."""

    units: Sequence[PooledUnit]
    demand: Demand

    def of(self, pool: RequestClass) -> list[PooledUnit]:
        """The units of a pool."""
        return [unit for unit in self.units if unit.pool == pool]


@dataclass(frozen=True, slots=True)
class Move:
    """A unit changes pool. It finishes what it runs."""

    unit: str
    to: RequestClass
    reason: str


class Controller(Protocol):
    """Decides when a unit changes pool. Keeps only what its hysteresis needs."""

    name: str
    needs_prices: bool

    def decide(self, situation: PoolSituation, now_s: float) -> Move | None:
        """At most one move; the caller carries it out."""
        ...


def least_busy(units: Sequence[PooledUnit]) -> PooledUnit:
    """The one whose move disturbs least."""
    return min(units, key=lambda unit: (unit.active, unit.name))
