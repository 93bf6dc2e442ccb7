"""Units with room, and the tickets that let requests choose among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from global_scheduler.queueing.waiting import RequestClass, Waiting

NO_LIMIT = 1_000_000
"""Requests at a time, more than any engine is given."""


class EngineFacts(msgspec.Struct, frozen=True):
    """What a unit's sidecar last said of its engine; None where nobody has said."""

    told_s: float = float("-inf")
    """When it was asked, on the gateway's clock."""
    max_num_seqs: int | None = None
    """Requests that the engine runs at a time."""
    kv_share: float | None = None
    """KV blocks in use over all that there are, 0 to 1."""
    queue_s: float | None = None
    """How long a what-if's newcomer would have waited in the engine."""


NOTHING_KNOWN = EngineFacts()


class Room(msgspec.Struct, frozen=True):
    """One healthy unit that does not drain."""

    unit: str
    models: Collection[str]
    pool: RequestClass | None
    """None serves both classes."""
    limit: int
    """Requests at a time."""
    active: int
    idle_s: float = 0.0
    """Since its last request ended; 0 while it has any."""
    engine: EngineFacts = NOTHING_KNOWN

    @property
    def free(self) -> int:
        """Requests that it could take at once; none if the limit was lowered below ``active``."""
        return max(0, self.limit - self.active)


class Ticket(msgspec.Struct, frozen=True):
    """A request that may now choose among units."""

    waiting: Waiting
    request_class: RequestClass
    units: tuple[str, ...]
    """Names, sorted."""
    is_stolen: bool = False
    """Its one unit is of the other pool."""
    number: int = 0
    """Of its arrival."""
    num_overtaken: int = 0


class Doors:
    """The units that requests of one queue may go to, given the tickets that are out.

    Each of those may take one place in any of its units, so a request may have a ticket when its
    units have more free places than there are such tickets.
    """

    def __init__(self, rooms: Sequence[Room], tickets: Sequence[Ticket], now_s: float) -> None:
        self._rooms = rooms
        self._tickets = tickets
        self._now_s = now_s
        self._found: dict[frozenset[str], tuple[str, ...]] = {}

    def are_open_to(self, waiting: Waiting) -> bool:
        """Whether it may have a ticket."""
        return waiting.not_before_s <= self._now_s and bool(self.units_for(waiting.tried))

    def units_for(self, tried: frozenset[str]) -> tuple[str, ...]:
        """For a request that failed on the units ``tried``; empty if it must wait."""
        if tried not in self._found:
            able = [room for room in self._rooms if room.unit not in tried]
            names = {room.unit for room in able}
            promised = sum(not names.isdisjoint(ticket.units) for ticket in self._tickets)
            free = sum(room.free for room in able)
            self._found[tried] = tuple(sorted(names)) if free > promised else ()
        return self._found[tried]
