"""The requests of one class that wait, and which of them goes next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from global_scheduler.queueing.base import Order, QueueView
from global_scheduler.queueing.waiting import Waiting


@dataclass(slots=True)
class Place:
    """A request in a queue."""

    waiting: Waiting
    number: int
    """Of its arrival; kept when it comes back, so that nothing is lost by a failed attempt."""
    num_overtaken: int = 0


class ClassQueue:
    """Requests in some order, none of which is overtaken too often.

    A request is overtaken when one that arrived later leaves, this queue or another one, though it
    could have left itself. After ``max_overtakes`` of that it goes before all that arrived later,
    whatever the order says.
    """

    def __init__(self, max_overtakes: int) -> None:
        self.max_overtakes = max_overtakes
        """May be changed at any time; how often requests were overtaken is kept."""
        self._places: dict[str, Place] = {}

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Waiting]:
        """By arrival."""
        places = sorted(self._places.values(), key=lambda place: place.number)
        return (place.waiting for place in places)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._places

    def put(self, waiting: Waiting, number: int, num_overtaken: int = 0) -> None:
        """Let a request wait; the two numbers are those of its first time here if it comes back."""
        self._places[waiting.request_id] = Place(waiting, number, num_overtaken)

    def next(
        self, order: Order, view: QueueView, can_go: Callable[[Waiting], bool]
    ) -> Place | None:
        """Which of those that can go goes next; None if none can."""
        able = [place for place in self._places.values() if can_go(place.waiting)]
        if len(able) < 2:
            return able[0] if able else None
        overdue = [place for place in able if self.is_overdue(place)]
        if overdue:
            return min(overdue, key=lambda place: place.number)
        return min(
            able, key=lambda place: (order.rank(place.waiting, view), place.number), default=None
        )

    def is_overdue(self, place: Place) -> bool:
        """Whether it may not be overtaken again."""
        return place.num_overtaken >= self.max_overtakes

    def note_departure(self, number: int, can_go: Callable[[Waiting], bool]) -> None:
        """The request of that number has left this queue or another one for a unit."""
        for place in self._places.values():
            if place.number < number and can_go(place.waiting):
                place.num_overtaken += 1

    def move(self, request_id: str, to: ClassQueue) -> None:
        """Let a request go on waiting in another queue, at its place by arrival."""
        to._places[request_id] = self._places.pop(request_id)

    def discard(self, request_id: str) -> bool:
        """Let a request leave for good; False if it is not here."""
        return self._places.pop(request_id, None) is not None
