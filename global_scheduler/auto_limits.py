"""Derives how many requests a unit should run at a time: the most with which TPOT is still met."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from statistics import fmean

import anyio
from msgspec.structs import replace

from global_scheduler.backlogs import Backlogs
from global_scheduler.late_binding import LateBinding
from global_scheduler.pool_metrics import PoolMetrics
from global_scheduler.queueing.tickets import NO_LIMIT
from global_scheduler.queueing.waiting import CLASSES, Waiting
from global_scheduler.units import Unit, UnitRegistry
from wire.prediction import BacklogPrediction

logger = logging.getLogger(__name__)

LARGEST = 256
WINDOW_S = 60.0
"""Arrivals within this time say what a typical request is like."""
DEADLINE_S = 1.0
"""For each of the questions about a unit."""


class AutoLimits:
    """Sets the limits of units that have none of their own."""

    def __init__(
        self,
        units: UnitRegistry,
        late_binding: LateBinding,
        backlogs: Backlogs,
        metrics: PoolMetrics,
        tpot_goal_s: Callable[[Unit], float],
        *,
        interval_s: float,
        is_on: bool,
    ) -> None:
        self.is_on = is_on
        """May be changed at any time; the last limits then stay."""
        self._units = units
        self._late_binding = late_binding
        self._backlogs = backlogs
        self._metrics = metrics
        self._tpot_goal_s = tpot_goal_s
        self._interval_s = interval_s

    async def run(self) -> None:
        """Derive limits until cancelled."""
        while True:
            await anyio.sleep(self._interval_s)
            try:
                await self.derive()
            except Exception:  # as in the control loop: the last limits are better than none
                logger.exception("limits could not be derived")
                self._metrics.failed()

    async def derive(self) -> None:
        """Ask the units' sidecars; the limit of one that does not answer stays."""
        recent = [one for name in CLASSES for one in self._late_binding.recent(name, WINDOW_S)]
        if not self.is_on or not recent:
            return
        units = [one for one in self._units.eligible(None) if one.concurrency_limit is None]
        await asyncio.gather(*(self._derive(unit, recent) for unit in units))

    async def _derive(self, unit: Unit, recent: Sequence[Waiting]) -> None:
        typical = [one for one in recent if one.model in unit.models]
        if not typical:
            return
        most = await self._most(unit, _mean(typical))
        if most is not None and self.is_on:
            before = self._late_binding.limit_of(unit)
            self._late_binding.set_limit(unit.name, approach(before, most))
            self._late_binding.wake()

    async def _most(self, unit: Unit, typical: Waiting) -> int | None:
        """By bisection over what may come on top of what runs; None without an answer."""
        active = len(unit.outstanding)
        fits, most = 0, LARGEST - active
        while fits < most:
            number = (fits + most + 1) // 2
            requests = [replace(typical, request_id=f"typical-{n}") for n in range(number)]
            answer = await self._backlogs.try_ask(
                unit, requests, "limit", limit=active + number, deadline_s=DEADLINE_S
            )
            if answer is None:
                return None
            if _is_met(answer, self._tpot_goal_s(unit)):
                fits = number
            else:
                most = number - 1
        return active + fits if fits else max(1, active - 1)


def approach(before: int, found: int) -> int:
    """Half of the way, at least one step: forecasts of a moment waver. All of it from no limit."""
    if abs(found - before) <= 1 or before >= NO_LIMIT:
        return found
    return round((before + found) / 2)


def _is_met(answer: BacklogPrediction, goal_s: float) -> bool:
    """Whether all of the backlog runs at a time and still decodes fast enough."""
    items = answer.requests
    if max(item.queue_ms for item in items) >= min(item.e2e_ms for item in items):
        return False  # the engine never runs so many
    return fmean(item.tpot_ms for item in items) / 1e3 <= goal_s


def _mean(requests: Sequence[Waiting]) -> Waiting:
    return replace(
        requests[-1],
        num_prompt_tokens=round(fmean(one.num_prompt_tokens for one in requests)),
        expected_output_tokens=fmean(one.expected_output_tokens for one in requests),
    )
