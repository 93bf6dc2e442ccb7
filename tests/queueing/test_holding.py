"""Late binding: who may leave when there is room, and what happens to those who cannot."""

from __future__ import annotations

import pytest

from global_scheduler.queueing.holding import Holding, QueueFull
from global_scheduler.queueing.tickets import Room
from tests.queueing.requests import always, holding, never, request, room, view


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
