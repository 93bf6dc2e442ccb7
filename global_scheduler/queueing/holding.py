"""Late binding: requests wait here until a unit really has room. Pure; the twin runs the same code.

A request that is granted leaves its queue with a *ticket*: some units with room among which it may
now choose, which takes a few milliseconds when their sidecars are asked. Tickets never promise more
room than there is. What comes of one is told by ``placed`` or ``came_back``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec.structs import replace

from global_scheduler.queueing.base import Order, QueueView
from global_scheduler.queueing.class_queue import ClassQueue, Place
from global_scheduler.queueing.tickets import Doors, Room, Ticket
from global_scheduler.queueing.waiting import CLASSES, RequestClass, Waiting


class QueueFull(Exception):
    """A request cannot wait; the message names the limit."""


MaySteal = Callable[[Room], bool]
"""Whether a unit with room may take one request of the other pool's class now."""
_Key = tuple[str, RequestClass]
"""Of a queue: a model and a class."""
_Urgency = tuple[bool, tuple[float, ...], int]
MOST_USERS = 10_000
"""Whose last turn is remembered."""


class Holding:
    """The queues, one for each model and class, and the tickets that are out."""

    def __init__(
        self, order: Order, *, max_requests: int, max_age_s: float, max_overtakes: int
    ) -> None:
        """At most ``max_requests`` of a class wait, none for longer than ``max_age_s``."""
        self.order = order
        self.max_requests = max_requests
        self.max_age_s = max_age_s
        self._max_overtakes = max_overtakes
        self._queues: dict[_Key, ClassQueue] = {}
        self._held: dict[str, Ticket] = {}
        self._num_arrived = 0
        self._turn = 0
        self._last_served: dict[str, int] = {}
        self._shut: set[_Key] = set()
        """Queues whose next request would only wait in an engine."""
        self._crowded: set[str] = set()
        """Models of such queues: their requests look for a unit one by one."""

    @property
    def max_overtakes(self) -> int:
        """How often a request is overtaken at most."""
        return self._max_overtakes

    @max_overtakes.setter
    def max_overtakes(self, bound: int) -> None:
        self._max_overtakes = bound
        for queue in self._queues.values():
            queue.max_overtakes = bound

    def __len__(self) -> int:
        """Requests that wait; those with a ticket do not."""
        return sum(map(len, self._queues.values()))

    @property
    def num_held(self) -> int:
        """Tickets that are out."""
        return len(self._held)

    def num_waiting(
        self, request_class: RequestClass, models: Collection[str] | None = None
    ) -> int:
        """Requests of a class that wait for one of ``models`` (None: any)."""
        return sum(
            len(queue)
            for (model, its_class), queue in self._queues.items()
            if its_class == request_class and (models is None or model in models)
        )

    def waiting(self, request_class: RequestClass | None = None) -> list[Waiting]:
        """The requests that wait, by arrival."""
        found = [
            one
            for (_, its_class), queue in self._queues.items()
            if request_class in (None, its_class)
            for one in queue
        ]
        return sorted(found, key=lambda one: one.arrived_s)

    def put(self, waiting: Waiting, request_class: RequestClass) -> None:
        """Let a new request wait.

        Raises:
            QueueFull: as many of its class wait already as may.
        """
        waiting_already = self.num_waiting(request_class)
        if waiting_already >= self.max_requests:
            raise QueueFull(f"{waiting_already} {request_class} requests wait already")
        self._queue(waiting.model, request_class).put(waiting, self._num_arrived)
        self._num_arrived += 1

    def grants(self, view: QueueView, rooms: Sequence[Room], may_steal: MaySteal) -> list[Ticket]:
        """Tickets for all that can leave now; short requests first, own pools before stealing."""
        with_room = [room for room in rooms if room.free]
        own = {
            request_class: [room for room in with_room if room.pool in (None, request_class)]
            for request_class in CLASSES
        }
        view = replace(view, last_served=self._last_served)
        granted = self._leave(own, view, is_stolen=False)
        if not len(self):
            return granted
        for request_class in CLASSES:
            for room in with_room:
                if (
                    room.pool not in (None, request_class)
                    and self.num_waiting(request_class, room.models)
                    and may_steal(room)
                ):
                    # What allows it is true of this unit, and before it has stolen anything.
                    one_place = replace(room, limit=room.active + 1)
                    granted += self._leave({request_class: [one_place]}, view, is_stolen=True)
        return granted

    def placed(self, request_id: str) -> None:
        """The request with this ticket was sent to a unit, whose ``active`` counts it now."""
        self._serve(self._held.pop(request_id).waiting.user)

    def came_back(
        self, ticket: Ticket, tried: Iterable[str] = (), not_before_s: float = float("-inf")
    ) -> None:
        """The ticket was of no use, or its unit failed: the request waits again, where it stood.

        ``tried`` names units it shall not be given again; before ``not_before_s`` it gets no
        ticket.
        """
        waiting = ticket.waiting
        self._held.pop(waiting.request_id, None)
        waiting = replace(waiting, tried=waiting.tried.union(tried), not_before_s=not_before_s)
        queue = self._queue(waiting.model, ticket.request_class)
        queue.put(waiting, ticket.number, ticket.num_overtaken)

    def hold_back(self, ticket: Ticket) -> None:
        """The request would only wait in an engine: it waits here, and those behind it, too.

        Until ``reopen``; short requests need not wait for long ones.
        """
        self.came_back(ticket)
        model = ticket.waiting.model
        behind = CLASSES[CLASSES.index(ticket.request_class) :]
        self._shut.update((model, request_class) for request_class in behind)
        self._crowded.add(model)

    def reopen(self) -> None:
        """Something has changed: whoever is held back may look again."""
        self._shut.clear()
        self._crowded = {
            model for (model, _), queue in self._queues.items() if len(queue)
        }.intersection(self._crowded)

    def withdraw(self, request_id: str) -> bool:
        """Forget a request, whether it waits or has a ticket; False if it is not here."""
        if self._held.pop(request_id, None) is not None:
            return True
        return any(queue.discard(request_id) for queue in self._queues.values())

    def expire(self, now_s: float) -> list[Waiting]:
        """Take out the requests that have waited for too long."""
        old = [one for one in self.waiting() if now_s - one.arrived_s >= self.max_age_s]
        for one in old:
            self.withdraw(one.request_id)
        return old

    def reclassify(self, class_of: Callable[[Waiting], RequestClass]) -> None:
        """Move each request that waits to the queue of its class; places are kept."""
        for (model, request_class), queue in list(self._queues.items()):
            for one in list(queue):
                new = class_of(one)
                if new != request_class:
                    queue.move(one.request_id, self._queue(model, new))

    def _queue(self, model: str, request_class: RequestClass) -> ClassQueue:
        key = (model, request_class)
        if key not in self._queues:
            # Models come and go; a queue without requests is not worth keeping.
            self._queues = {k: queue for k, queue in self._queues.items() if len(queue)}
            self._queues[key] = ClassQueue(self._max_overtakes)
        return self._queues[key]

    def _leave(
        self,
        rooms: Mapping[RequestClass, Sequence[Room]],
        view: QueueView,
        *,
        is_stolen: bool,
    ) -> list[Ticket]:
        """Tickets for requests of the classes given, each to its class's rooms."""
        left: list[Ticket] = []
        while len(self):
            ticket = self._try_grant(rooms, view, is_stolen=is_stolen)
            if ticket is None:
                break
            self._held[ticket.waiting.request_id] = ticket
            left.append(ticket)
        return left

    def _try_grant(
        self,
        rooms: Mapping[RequestClass, Sequence[Room]],
        view: QueueView,
        *,
        is_stolen: bool,
    ) -> Ticket | None:
        """One ticket: for an overdue request of any queue, else for the first class's next one."""
        doors = self._open_doors(rooms, view.now_s)
        found = [
            (place, key)
            for key, its_doors in doors.items()
            if (place := self._queues[key].next(self.order, view, its_doors.are_open_to))
        ]
        if not found:
            return None
        place, key = found[0]
        if len(found) > 1:
            place, key = min(found, key=lambda one: self._urgency(one[0], one[1], view))
        self._queues[key].discard(place.waiting.request_id)
        for other, its_doors in doors.items():
            self._queues[other].note_departure(place.number, its_doors.are_open_to)
        units = doors[key].units_for(place.waiting.tried)
        return Ticket(place.waiting, key[1], units, is_stolen, place.number, place.num_overtaken)

    def _urgency(self, place: Place, key: _Key, view: QueueView) -> _Urgency:
        if self._queues[key].is_overdue(place):
            return False, (), place.number
        rank = (CLASSES.index(key[1]), *self.order.rank(place.waiting, view))
        return True, rank, place.number

    def _open_doors(
        self, rooms: Mapping[RequestClass, Sequence[Room]], now_s: float
    ) -> dict[_Key, Doors]:
        """By queue; without those that are empty or whose units have no room."""
        tickets = list(self._held.values())
        looking = {ticket.waiting.model for ticket in tickets} & self._crowded
        doors = {
            (model, request_class): Doors(
                [room for room in rooms[request_class] if model in room.models], tickets, now_s
            )
            for (model, request_class), queue in self._queues.items()
            if request_class in rooms
            and len(queue)
            and (model, request_class) not in self._shut
            and model not in looking
        }
        return {key: one for key, one in doors.items() if one.units_for(frozenset())}

    def _serve(self, user: str) -> None:
        self._last_served.pop(user, None)
        self._last_served[user] = self._turn
        self._turn += 1
        if len(self._last_served) > MOST_USERS:
            del self._last_served[next(iter(self._last_served))]
