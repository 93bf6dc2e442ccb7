"""Late binding: who may leave when there is room, and what happens to those who cannot."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.holding import Holding, QueueFull, Room, Ticket
from global_scheduler.queueing.waiting import CLASSES
from tests.queueing.requests import holding, request, room, view


def never(unit: Room) -> bool:
    """No stealing."""
    return False


def always(unit: Room) -> bool:
    """Stealing whenever there is room."""
    return True


def granted(queues: Holding, *rooms: Room, may_steal: bool = False) -> dict[str, tuple[str, ...]]:
    """Which requests may choose among which units."""
    tickets = queues.grants(view(), rooms, always if may_steal else never)
    return {ticket.waiting.request_id: ticket.units for ticket in tickets}


def test_a_request_waits_until_a_unit_has_room() -> None:
    """A unit is available while it runs fewer requests than its limit."""
    queues = holding()
    queues.put(request("a"), "short")
    assert granted(queues, room("u", limit=8, active=8)) == {}
    assert granted(queues, room("u", limit=8, active=7)) == {"a": ("u",)}


def test_tickets_never_promise_more_than_there_is_room_for() -> None:
    """Two places: two tickets, and no third until one of them is settled and room is left."""
    queues = holding()
    for name in "abc":
        queues.put(request(name), "short")
    rooms = [room("u"), room("v")]
    assert granted(queues, *rooms) == {"a": ("u", "v"), "b": ("u", "v")}
    assert granted(queues, *rooms) == {}
    queues.placed("a")
    assert granted(queues, room("u", active=1), room("v")) == {}
    queues.withdraw("b")
    assert granted(queues, room("u", active=1), room("v")) == {"c": ("v",)}


def test_pools_keep_apart() -> None:
    """A request goes to units of its class, or to those that serve both."""
    queues = holding()
    queues.put(request("chat"), "short")
    queues.put(request("book"), "long")
    rooms = [room("s", "short"), room("l", "long"), room("b", limit=2)]
    assert granted(queues, *rooms) == {"chat": ("b", "s"), "book": ("b", "l")}


def test_stealing_comes_last() -> None:
    """A unit takes from the other pool only what its own pool's units cannot."""
    queues = holding()
    for name in ("b1", "b2"):
        queues.put(request(name), "long")
    tickets = queues.grants(view(), [room("s", "short"), room("l", "long")], always)
    assert [(t.waiting.request_id, t.units, t.is_stolen) for t in tickets] == [
        ("b1", ("l",), False),
        ("b2", ("s",), True),
    ]


def test_a_unit_steals_one_request_at_a_time() -> None:
    """What allowed it, that the unit was idle for example, is no longer true after that."""
    queues = holding()
    for number in range(5):
        queues.put(request(f"b{number}"), "long")
    rooms = [room("s", "short", limit=8), room("t", "short", limit=8)]
    assert granted(queues, *rooms, may_steal=True) == {"b0": ("s",), "b1": ("t",)}
    assert granted(queues, *rooms, may_steal=True) == {}
    queues.placed("b0")
    rooms[0] = room("s", "short", limit=8, active=1)
    assert granted(queues, *rooms, may_steal=True) == {"b2": ("s",)}


def test_a_failed_attempt_keeps_its_place() -> None:
    """And is not given the unit that failed again."""
    queues = holding()
    queues.put(request("a"), "short")
    queues.put(request("b"), "short")
    (ticket,) = queues.grants(view(), [room("u")], never)
    queues.came_back(ticket, tried=["u"])
    assert granted(queues, room("u"), room("v")) == {"a": ("v",), "b": ("u", "v")}


def test_requests_go_to_units_that_serve_their_model() -> None:
    """One whose model has no room does not hold up the others."""
    queues = holding()
    queues.put(request("a", model="big"), "short")
    queues.put(request("b", model="small"), "short")
    assert granted(queues, room("u", models=("small",))) == {"b": ("u",)}


def test_a_full_queue_refuses() -> None:
    """Each class has its bound: a queue full of long requests keeps no short one out."""
    queues = holding(max_requests=2)
    queues.put(request("a"), "long")
    queues.put(request("b"), "long")
    with pytest.raises(QueueFull, match="2 long requests wait already"):
        queues.put(request("c"), "long")
    queues.put(request("d"), "short")
    assert len(queues) == 3


def test_a_request_may_wait_for_better_times() -> None:
    """It gets no ticket before the time it came back with, and others go meanwhile."""
    queues = holding()
    queues.put(request("a"), "short")
    queues.put(request("b"), "short")
    (ticket,) = queues.grants(view(0.0), [room("u")], never)
    queues.came_back(ticket, not_before_s=1.0)
    assert [one.waiting.request_id for one in queues.grants(view(0.9), [room("u")], never)] == ["b"]
    queues.placed("b")
    assert [one.waiting.request_id for one in queues.grants(view(1.0), [room("u")], never)] == ["a"]


def test_requests_do_not_wait_for_ever() -> None:
    """Those that are too old come out; a request with a ticket does not wait."""
    queues = holding(max_age_s=30.0)
    queues.put(request("a", 0.0), "short")
    queues.put(request("b", 1.0), "short")
    queues.put(request("c", 5.0), "long")
    assert granted(queues, room("u", "short")) == {"a": ("u",)}
    assert [one.request_id for one in queues.expire(30.9)] == []
    assert [one.request_id for one in queues.expire(31.0)] == ["b"]
    assert len(queues) == 1
    assert queues.num_held == 1


def test_new_classes_keep_places() -> None:
    """When the threshold moves, requests change queues and stand there by their arrival."""
    queues = holding()
    for name, size in (("a", 100), ("b", 900), ("c", 100)):
        queues.put(request(name, num_prompt_tokens=size), "long")
    queues.reclassify(lambda one: "short" if one.num_prompt_tokens < 500 else "long")
    assert (queues.num_waiting("short"), queues.num_waiting("long")) == (2, 1)
    assert granted(queues, room("u", "short", limit=5)) == {"a": ("u",), "c": ("u",)}


def test_overtaking_has_a_bound() -> None:
    """After three short jobs the long one goes, though shorter ones still arrive."""
    queues = holding("sjf", max_overtakes=3)
    queues.put(request("long", expected_output_tokens=999.0), "short")
    order = []
    for number in range(5):
        queues.put(request(f"s{number}", expected_output_tokens=1.0), "short")
        (ticket,) = queues.grants(view(), [room("u")], never)
        queues.placed(ticket.waiting.request_id)
        order.append(ticket.waiting.request_id)
    assert order == ["s0", "s1", "s2", "long", "s3"]


def test_short_requests_overtake_long_ones_no_more_often() -> None:
    """Where a unit serves both classes, the long ones have their turn, too."""
    queues = holding(max_overtakes=2)
    queues.put(request("b0"), "long")
    queues.put(request("b1"), "long")
    order = []
    for number in range(5):
        queues.put(request(f"c{number}"), "short")
        (ticket,) = queues.grants(view(), [room("u")], never)
        queues.placed(ticket.waiting.request_id)
        order.append(ticket.waiting.request_id)
    assert order == ["c0", "c1", "b0", "b1", "c2"]


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
@settings(max_examples=150, deadline=None)
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
@settings(max_examples=100, deadline=None)
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
