"""Late binding at work: requests wait for their ticket here, and what changes wakes them.

What decides is pure (``queueing/``, ``pools/``); this has the clock, the units and the futures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import anyio

from global_scheduler.errors import NoUnitAvailable, Rejection, TooManyRequests
from global_scheduler.pools.book import PoolBook
from global_scheduler.pools.classes import Classifier
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.queueing.base import QueueView
from global_scheduler.queueing.holding import Holding, QueueFull
from global_scheduler.queueing.load import fleet_load, places
from global_scheduler.queueing.tickets import NO_LIMIT, Room, Ticket
from global_scheduler.queueing.waiting import RequestClass, Waiting
from global_scheduler.rates import LearntRates
from global_scheduler.units import Unit, UnitRegistry

TICK_S = 0.1
"""Units that come back, ages and postponed requests are looked at so often."""
HOPELESS_AFTER_S = 5.0
"""A request that no unit could take for so long is answered 503: a unit may come back sooner."""
MOST_ARRIVALS = 1_000
"""Remembered for forecasts."""
SHORTEST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0


class LateBinding:
    """Gives each request a ticket when units have room for it."""

    def __init__(
        self,
        units: UnitRegistry,
        holding: Holding,
        book: PoolBook,
        classifier: Classifier,
        metrics: QueueMetrics,
        *,
        clock: Callable[[], float],
        default_limit: int,
    ) -> None:
        self.holding = holding
        self.book = book
        self.classifier = classifier
        self.rates = LearntRates()
        self.default_limit = default_limit
        """Requests at a time on units without a limit of their own."""
        self.may_steal: Callable[[Room], bool] = lambda room: False
        self.on_stolen: Callable[[Ticket], None] = lambda ticket: None
        self._units = units
        self._metrics = metrics
        self._clock = clock
        self._present: set[str] = set()
        self._expected: dict[str, asyncio.Future[Ticket]] = {}
        self._hopeless_since_s: dict[str, float] = {}
        self._arrivals: deque[tuple[Waiting, RequestClass]] = deque(maxlen=MOST_ARRIVALS)
        self._learnt_limits: dict[str, int] = {}

    def __contains__(self, request_id: str) -> bool:
        """Whether the request has entered and not left."""
        return request_id in self._present

    async def run(self) -> None:
        """Look after those that wait, until cancelled."""
        while True:
            await anyio.sleep(TICK_S)
            # Before anybody looks for a unit: who does is not in a queue meanwhile.
            self._metrics.waiting(self.holding)
            if len(self.holding):
                self._give_up(self._clock())
                self.wake()

    def enter(self, waiting: Waiting) -> None:
        """A new request; ``ticket`` gives what it waits for, ``leave`` must follow in the end.

        Raises:
            TooManyRequests: too many wait already.
        """
        request_class = self.classifier.class_of(waiting)
        self._arrivals.append((waiting, request_class))
        try:
            self.holding.put(waiting, request_class)
        except QueueFull as error:
            self._metrics.rejected("queue_full", request_class)
            raise TooManyRequests(str(error), "queue_full", self.drain_s()) from None
        self._present.add(waiting.request_id)

    def enter_again(
        self, ticket: Ticket, tried: str | None = None, not_before_s: float = float("-inf")
    ) -> None:
        """The ticket was of no use: back to the old place. ``tried`` names a unit that failed."""
        self.holding.came_back(ticket, () if tried is None else (tried,), not_before_s)

    def hold_back(self, ticket: Ticket) -> None:
        """Every engine would let the request wait; it does so here, until something changes."""
        self.holding.hold_back(ticket)

    async def ticket(self, request_id: str) -> Ticket:
        """When units have room.

        Raises:
            TooManyRequests: the request has waited for too long.
            NoUnitAvailable: no unit that could take it has been there for a while.
        """
        future: asyncio.Future[Ticket] = asyncio.get_running_loop().create_future()
        self._expected[request_id] = future
        self._grant()
        try:
            return await future
        finally:
            del self._expected[request_id]

    def placed(self, ticket: Ticket) -> None:
        """A unit has been sent the request."""
        self.holding.placed(ticket.waiting.request_id)
        self._metrics.placed(ticket, self._clock())
        if ticket.is_stolen:
            self.on_stolen(ticket)
        self._grant()

    def refused(self, ticket: Ticket, reason: Rejection) -> None:
        """The request is answered 429 though units have room; ``leave`` follows."""
        self._metrics.rejected(reason, ticket.request_class)

    def leave(self, request_id: str) -> None:
        """The request is over, well or not, wherever it was."""
        self._present.discard(request_id)
        self.holding.withdraw(request_id)
        self._hopeless_since_s.pop(request_id, None)
        self.wake()

    def wake(self) -> None:
        """Let go what can go. To be called after any change of units, pools, limits or order."""
        self.holding.reopen()
        self._grant()

    def _grant(self) -> None:
        if not len(self.holding):
            return
        now_s = self._clock()
        rooms = self.rooms()
        for ticket in self.holding.grants(self._view(rooms, now_s), rooms, self.may_steal):
            future = self._expected[ticket.waiting.request_id]
            if not future.done():  # its client has left just now; `leave` follows
                future.set_result(ticket)

    def rooms(self) -> list[Room]:
        """The units that are capacity now."""
        now_s = self._clock()
        return [
            Room(
                unit.name,
                unit.models,
                self.book.class_of(unit.name),
                self.limit_of(unit),
                len(unit.outstanding),
                0.0 if unit.outstanding else now_s - unit.last_ended_s,
                unit.engine,
            )
            for unit in self._units.eligible(None)
        ]

    @property
    def needs_lengths(self) -> bool:
        """Whether it matters here how long answers should get: for pools, or for who goes next."""
        if self.book.regime is not None:
            return True
        may_fill_up = self.default_limit < NO_LIMIT or any(
            unit.concurrency_limit is not None for unit in self._units.all()
        )
        return self.holding.order.needs_lengths and may_fill_up

    def load(self) -> float:
        """How full the fleet is, 0 to 1: what ``adaptive`` orders by."""
        return fleet_load(self.rooms(), self._clock())

    def limit_of(self, unit: Unit) -> int:
        """Requests that it may run at a time: its own limit, the learnt one, or everyone's."""
        learnt = self._learnt_limits.get(unit.name, self.default_limit)
        return unit.concurrency_limit or learnt

    def places_of(self, unit: Unit) -> int:
        """Requests that it can run at a time, by its limit and by what is known of its engine."""
        return places(self.limit_of(unit), unit.engine)

    def set_limit(self, unit: str, limit: int) -> None:
        """A limit that was derived for a unit, of which its configuration says nothing."""
        self._learnt_limits[unit] = limit

    def set_default_limit(self, limit: int) -> None:
        """For all units without a limit of their own; derived ones are forgotten."""
        self.default_limit = limit
        self._learnt_limits.clear()

    def recent(self, request_class: RequestClass, within_s: float) -> list[Waiting]:
        """Requests of a class that have arrived lately, oldest first."""
        since_s = self._clock() - within_s
        return [
            waiting
            for waiting, its_class in self._arrivals
            if its_class == request_class and waiting.arrived_s >= since_s
        ]

    def drain_s(self) -> float:
        """Until those that wait now should have left, at the present pace; 1 to 60."""
        drain_s = len(self.holding) * self._metrics.seconds_per_departure()
        return min(max(drain_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)

    def _view(self, rooms: list[Room], now_s: float) -> QueueView:
        load = fleet_load(rooms, now_s) if self.holding.order.needs_load else 0.0
        return QueueView(now_s, load, self.rates.present)

    def _give_up(self, now_s: float) -> None:
        for waiting in self.holding.expire(now_s):
            self._metrics.rejected("queue_timeout", self.classifier.class_of(waiting))
            message = f"no unit had room within {self.holding.max_age_s:g} s"
            self._fail(waiting, TooManyRequests(message, "queue_timeout", self.drain_s()))
        eligible: dict[str, set[str]] = {}
        for waiting in self.holding.waiting():
            if waiting.model not in eligible:
                eligible[waiting.model] = {u.name for u in self._units.eligible(waiting.model)}
            if not eligible[waiting.model] <= waiting.tried:
                self._hopeless_since_s.pop(waiting.request_id, None)
                continue
            since_s = self._hopeless_since_s.setdefault(waiting.request_id, now_s)
            if now_s - since_s >= HOPELESS_AFTER_S:
                self.holding.withdraw(waiting.request_id)
                message = f"no unit can take a request for {waiting.model!r} now"
                self._fail(waiting, NoUnitAvailable(message, code="no_unit"))

    def _fail(self, waiting: Waiting, error: TooManyRequests | NoUnitAvailable) -> None:
        future = self._expected[waiting.request_id]
        if not future.done():
            future.set_exception(error)
