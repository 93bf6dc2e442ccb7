"""Whether a unit may take a request of the other pool: by rule at once, by what-if a moment later.

Tickets are given out synchronously, so a what-if cannot be waited for: it is started, and if it
shows no harm it leaves a permit and wakes those that wait. A permit is for one request, and for the
state of the unit that the what-if was about.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass

from global_scheduler.backlogs import Backlogs
from global_scheduler.late_binding import LateBinding
from global_scheduler.pool_metrics import StealMetrics
from global_scheduler.pools.stealing import (
    StealForecast,
    Stealing,
    StealSituation,
    is_harmless,
    rasp,
    worth_asking,
)
from global_scheduler.queueing.tickets import Room, Ticket
from global_scheduler.queueing.waiting import RequestClass, Waiting
from global_scheduler.units import Unit, UnitRegistry

PERMIT_S = 0.5
HOLD_OFF_S = 0.25
"""After a what-if without a permit, until the unit's sidecar is asked again."""
DEADLINE_S = 0.25
GAP_WINDOW_S = 10.0
"""Arrivals within this time tell when the next one is expected."""


@dataclass(slots=True)
class _Record:
    """What is known of one unit."""

    is_asking: bool = False
    not_before_s: float = float("-inf")
    permit_until_s: float = float("-inf")
    asked_s: float = float("-inf")
    allowed_by: str = "rasp"


class StealPermits:
    """Answers ``LateBinding`` when it asks whether a unit may steal."""

    def __init__(
        self,
        units: UnitRegistry,
        late_binding: LateBinding,
        backlogs: Backlogs,
        metrics: StealMetrics,
        clock: Callable[[], float],
        *,
        rule: Stealing,
        tau_cool_s: float,
    ) -> None:
        self.rule: Stealing = rule
        self.tau_cool_s = tau_cool_s
        self._units = units
        self._late_binding = late_binding
        self._backlogs = backlogs
        self._metrics = metrics
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._questions: set[asyncio.Task[None]] = set()

    def may_steal(self, room: Room) -> bool:
        """Whether the unit may take a request of the other class, of which some wait."""
        if self.rule == "off" or room.pool is None:
            return False
        own_waiting = self._late_binding.holding.num_waiting(room.pool, room.models)
        situation = StealSituation(room.pool, room.idle_s, own_waiting)
        record = self._records.setdefault(room.unit, _Record())
        if rasp(situation, self.tau_cool_s):
            record.allowed_by = "rasp"
            return True
        if self.rule == "rasp" or not worth_asking(situation):
            return False
        if self._has_permit(record, room.unit):
            record.allowed_by = "what_if"
            return True
        self._ask_soon(record, room)
        return False

    def stolen(self, ticket: Ticket) -> None:
        """A request was placed where it does not belong."""
        record = self._records.get(ticket.units[0], _Record())
        self._metrics.stolen(ticket.request_class, record.allowed_by)

    def forget_all_but(self, registered: Collection[str]) -> None:
        """Drop what is known of units that are no more."""
        self._records = {unit: one for unit, one in self._records.items() if unit in registered}

    async def close(self) -> None:
        """End the questions under way."""
        for question in self._questions:
            question.cancel()
        await asyncio.gather(*self._questions, return_exceptions=True)

    def _has_permit(self, record: _Record, unit: str) -> bool:
        """Void once the unit has been sent anything since the what-if."""
        is_as_asked = self._units.get(unit).last_sent_s < record.asked_s
        return self._clock() < record.permit_until_s and is_as_asked

    def _ask_soon(self, record: _Record, room: Room) -> None:
        if record.is_asking or self._clock() < record.not_before_s:
            return
        wanted: RequestClass = "long" if room.pool == "short" else "short"
        candidates = (
            one
            for one in self._late_binding.holding.waiting(wanted)
            if one.model in room.models and room.unit not in one.tried
        )
        waiting = next(candidates, None)
        if waiting is None:
            return
        record.is_asking = True
        unit = self._units.get(room.unit)
        question = asyncio.ensure_future(self._ask(record, unit, room, wanted, waiting))
        self._questions.add(question)
        question.add_done_callback(self._questions.discard)

    async def _ask(
        self, record: _Record, unit: Unit, room: Room, wanted: RequestClass, waiting: Waiting
    ) -> None:
        asked_s = self._clock()
        try:
            forecast = await self._predict(unit, room, waiting)
        finally:
            record.is_asking = False
        if forecast is not None and is_harmless(forecast):
            record.asked_s, record.permit_until_s = asked_s, self._clock() + PERMIT_S
            self._late_binding.wake()
            return
        if forecast is not None:
            self._metrics.refused(wanted)
        record.not_before_s = self._clock() + HOLD_OFF_S

    async def _predict(self, unit: Unit, room: Room, waiting: Waiting) -> StealForecast | None:
        answer = await self._backlogs.try_ask(
            unit, [waiting], "steal", limit=room.limit, deadline_s=DEADLINE_S
        )
        if answer is None:
            return None
        ttft_s = answer.requests[0].ttft_ms / 1e3
        return StealForecast(ttft_s, answer.num_slo_broken, self._gap_s(room))

    def _gap_s(self, room: Room) -> float:
        """Expected until the unit is given its next request of its own class."""
        assert room.pool is not None
        recent = self._late_binding.recent(room.pool, GAP_WINDOW_S)
        num_recent = sum(one.model in room.models for one in recent)
        if not num_recent:
            return float("inf")
        peers = [
            other
            for other in self._late_binding.rooms()
            if other.pool in (None, room.pool) and set(other.models) == set(room.models)
        ]
        return GAP_WINDOW_S / num_recent * max(1, len(peers))
