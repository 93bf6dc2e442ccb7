"""A request's way to a unit that answers: wait, choose, try, and wait again if the unit failed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from global_scheduler.decisions import Decision
from global_scheduler.dispatch import Dispatcher, Postponed
from global_scheduler.errors import TooManyRequests, UpstreamFailed
from global_scheduler.job import Job
from global_scheduler.late_binding import LateBinding
from global_scheduler.queueing.tickets import Ticket
from global_scheduler.units import Unit, UnitRegistry
from global_scheduler.upstream import UnitFailed

Attempt = Callable[[Unit, Decision, Ticket, bool], Awaitable[None]]
"""``attempt(unit, decision, ticket, may_retry)`` sends the request and follows it to its end.

``may_retry`` says whether another unit may follow. It raises UnitFailed only while nothing of an
answer has reached the client."""


class Attempts:
    """Finds requests a unit, and another one where that fails."""

    def __init__(
        self,
        units: UnitRegistry,
        late_binding: LateBinding,
        dispatcher: Dispatcher,
        max_attempts: int,
    ) -> None:
        self._units = units
        self._late_binding = late_binding
        self._dispatcher = dispatcher
        self._max_attempts = max_attempts

    async def until_answered(self, job: Job, attempt: Attempt) -> None:
        """Wait for a unit and try it, until one has answered or none is left.

        Raises:
            GatewayError: it is refused, or the last unit failed, too; or what ``attempt`` raises.
        """
        self._dispatcher.check_model(job.model)
        self._late_binding.enter(job.waiting())
        try:
            tried = set[str]()
            while not await self._is_answered(job, attempt, tried):
                pass
        finally:
            self._late_binding.leave(job.request_id)

    async def _is_answered(self, job: Job, attempt: Attempt, tried: set[str]) -> bool:
        """Whether this time it was; if not, it waits again and units that failed are noted.

        No await may stand between a request's return to its queue and its wait for a ticket.
        """
        ticket = await self._late_binding.ticket(job.request_id)
        try:
            chosen = await self._dispatcher.dispatch(job, ticket, self._late_binding.limit_of)
        except TooManyRequests as refusal:
            self._late_binding.refused(ticket, refusal.reason)
            raise
        if isinstance(chosen, Postponed):
            if chosen.is_crowded:
                self._late_binding.hold_back(ticket)
            else:
                self._late_binding.enter_again(ticket, not_before_s=chosen.not_before_s)
            return False
        unit, decision = chosen
        self._late_binding.placed(ticket)
        tried.add(unit.name)
        may_retry = len(tried) < self._max_attempts and any(
            other.name not in tried for other in self._units.eligible(job.model)
        )
        try:
            await attempt(unit, decision, ticket, may_retry)
        except UnitFailed as failure:
            if not may_retry:
                raise UpstreamFailed(
                    f"unit {unit.name} failed: {failure}", code="unit_failed"
                ) from failure
            self._late_binding.enter_again(ticket, tried=unit.name)
            return False
        return True
