"""Late binding under random arrivals, failures and moves: what always holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.holding import Holding, QueueFull
from global_scheduler.queueing.tickets import Room, Ticket
from global_scheduler.queueing.waiting import CLASSES
from tests.queueing.requests import always, holding, never, request, room, view


@dataclass
class World:
    """Units that come, go and fail, and clients that ask and leave, at random."""

    rng: random.Random
    queues: Holding
    limits: dict[str, int]
    pools: dict[str, str | None]
    active: dict[str, dict[str, Ticket]] = field(default_factory=dict)
    """By unit and request: the ticket that it went with."""
    asked: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    tickets: list[Ticket] = field(default_factory=list)

    def rooms(self) -> list[Room]:
        """As the scheduler sees the units that are up."""
        return [
            room(unit, self.pools[unit], limit=self.limits[unit], active=len(self.active[unit]))  # type: ignore[arg-type]
            for unit in self.active
        ]

    def arrive(self) -> None:
        """A new request, long or short."""
        name = f"r{len(self.asked)}"
        fields = {
            "expected_output_tokens": float(self.rng.randrange(1_000)),
            "importance": self.rng.randrange(-1, 3),
            "user": self.rng.choice("xyz"),
            "ttft_goal_s": self.rng.choice([None, 1.0, 5.0]),
        }
        self.asked.append(name)
        try:
            cls = self.rng.choice(("short", "long"))
            self.queues.put(request(name, float(len(self.asked)), **fields), cls)  # type: ignore[arg-type]
        except QueueFull:
            self.ended.append(name)

    def grant(self) -> None:
        """Hand out what tickets there are."""
        self.tickets += self.queues.grants(view(float(len(self.asked))), self.rooms(), always)

    def settle(self) -> None:
        """A request with a ticket chooses a unit with room, or comes back."""
        if not self.tickets:
            return
        ticket = self.tickets.pop(self.rng.randrange(len(self.tickets)))
        name = ticket.waiting.request_id
        able = [
            u for u in ticket.units if u in self.active and len(self.active[u]) < self.limits[u]
        ]
        if not able or self.rng.random() < 0.1:
            self.queues.came_back(ticket)
            return
        self.queues.placed(name)
        self.active[self.rng.choice(able)][name] = ticket

    def end(self) -> None:
        """A request ends on some unit."""
        busy = [unit for unit, running in self.active.items() if running]
        if busy:
            running = self.active[self.rng.choice(busy)]
            name = self.rng.choice(sorted(running))
            del running[name]
            self.ended.append(name)

    def leave(self) -> None:
        """A client leaves while its request waits."""
        waiting = self.queues.waiting()
        if waiting:
            name = self.rng.choice(waiting).request_id
            assert self.queues.withdraw(name)
            self.ended.append(name)

    def change(self) -> None:
        """A unit changes pool, its limit, or fails with all it runs, and another comes."""
        unit = self.rng.choice(sorted(self.pools))
        what = self.rng.randrange(3)
        if what == 0:
            self.pools[unit] = self.rng.choice(("short", "long", None))
        elif what == 1 and unit in self.active:
            self.fail(unit)
        else:
            self.active.setdefault(unit, {})

    def fail(self, unit: str) -> None:
        """What it ran is tried elsewhere, if there is a unit that has not failed it."""
        for name, ticket in self.active.pop(unit).items():
            if ticket.waiting.tried | {unit} == set(self.pools) or self.rng.random() < 0.3:
                self.ended.append(name)
            else:
                self.queues.came_back(ticket, tried=[unit])


@given(st.integers(0, 2**32), st.sampled_from(sorted(ORDERS)))
@settings(max_examples=150)
def test_nothing_is_lost_nor_served_twice(seed: int, order: str) -> None:
    """Whatever happens: each request is in exactly one place, and no unit is over its limit."""
    rng = random.Random(seed)
    pools: dict[str, str | None] = {unit: rng.choice(("short", "long", None)) for unit in "uvw"}
    queues = holding(order, max_requests=20, max_overtakes=5)
    world = World(rng, queues, {unit: rng.randrange(1, 4) for unit in "uvw"}, pools)
    world.active = {unit: {} for unit in "uvw"}
    acts = [world.arrive, world.arrive, world.grant, world.settle, world.end, world.leave]
    for _ in range(200):
        rng.choice([*acts, world.change])()
        waiting = [one.request_id for one in queues.waiting()]
        holders = [ticket.waiting.request_id for ticket in world.tickets]
        running = [name for unit in world.active.values() for name in unit]
        assert sorted(waiting + holders + running + world.ended) == sorted(world.asked)
        assert queues.num_held == len(holders)
        assert all(len(names) <= world.limits[unit] for unit, names in world.active.items())
    for _ in range(200):  # and in the end everything is answered
        world.active.update({unit: {} for unit in "uvw" if unit not in world.active})
        world.grant()
        world.settle()
        world.end()
    assert sorted(world.ended) == sorted(world.asked)


@given(st.integers(0, 2**32), st.sampled_from(sorted(ORDERS)), st.integers(1, 8))
@settings(max_examples=100)
def test_nobody_is_overtaken_more_often_than_allowed(seed: int, order: str, bound: int) -> None:
    """Under random arrivals of both classes and two models and one place, for every order."""
    rng = random.Random(seed)
    queues = holding(order, max_requests=1_000, max_overtakes=bound)
    waiting: list[int] = []
    overtaken: dict[int, int] = {}
    for number in range(150):
        user, importance = rng.choice("xyz"), rng.randrange(3)
        one = request(f"{number}", float(number), user=user, importance=importance)
        one = replace(one, expected_output_tokens=float(rng.randrange(500)), model=rng.choice("mn"))
        queues.put(one, rng.choice(CLASSES))
        waiting.append(number)
        for _ in range(rng.randrange(3)):
            unit = room("u", models=("m", "n"))
            for ticket in queues.grants(view(float(number)), [unit], never):
                taken = int(ticket.waiting.request_id)
                queues.placed(ticket.waiting.request_id)
                waiting.remove(taken)
                for other in waiting:
                    overtaken[other] = overtaken.get(other, 0) + (other < taken)
    assert max(overtaken.values(), default=0) <= bound
