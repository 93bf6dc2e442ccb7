"""When a unit may take a request of the other pool's class.

``rasp`` is AdaSplit's Risk-Aware Stealing Policy (seed, "Micro-Layer"). ``predictive`` adds what it
forbids without need: a steal that, by a what-if, breaks no goal and is over with its disruptive
part, the prefill, before the next short request is expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from global_scheduler.queueing.waiting import RequestClass

Stealing = Literal["off", "rasp", "predictive"]
TAU_COOL_S = 2.0


@dataclass(frozen=True, slots=True)
class StealSituation:
    """A unit with room, and the queue of its own class."""

    pool: RequestClass
    idle_s: float
    """Since its last request ended; 0 while it runs any."""
    num_own_waiting: int
    """Requests of its own class that wait and that it could serve."""


@dataclass(frozen=True, slots=True)
class StealForecast:
    """What a what-if says of the steal."""

    ttft_s: float
    """Until the stolen request's prefill is over."""
    num_slo_broken: int
    """Requests on the unit that would miss a goal because of it."""
    gap_s: float
    """Expected until the unit is given its next own request; infinite if none is expected."""


def rasp(situation: StealSituation, tau_cool_s: float = TAU_COOL_S) -> bool:
    """If and only if a short unit's queue is empty and it has been idle for over ``tau_cool_s``."""
    return (
        situation.pool == "short"
        and situation.num_own_waiting == 0
        and situation.idle_s > tau_cool_s
    )


def worth_asking(situation: StealSituation) -> bool:
    """Whether a what-if could allow it: nobody of the unit's own class waits, in either pool."""
    return situation.num_own_waiting == 0


def is_harmless(forecast: StealForecast) -> bool:
    """Whether the what-if allows it."""
    return forecast.num_slo_broken == 0 and forecast.ttft_s <= forecast.gap_s
