"""When standby units join and leave, as traces of (second, what, unit)."""

from __future__ import annotations

import itertools
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from global_scheduler.provisioning.base import Rules, Standby
from tests.provisioning.fleet_trace import Fleet

RULES = Rules(
    limit_ms=1_000, num_late=3, window_s=10, idle_s=60, cooldown_s=30, start_timeout_s=100
)


def test_a_unit_joins_when_requests_are_late_and_leaves_when_it_was_spare() -> None:
    """The third late request of the window starts a unit; it leaves after its idle time."""
    fleet = Fleet(RULES, late=lambda second: second in (10, 12, 14))
    assert fleet.run(0, 200) == [
        (14, "start", "s1"),
        (19, "joined", "s1"),
        (79, "drain", "s1"),
        (80, "stop", "s1"),
    ]


def test_a_few_late_requests_are_no_reason() -> None:
    """Two late requests in any ten seconds start nothing."""
    assert Fleet(RULES, late=lambda second: second % 5 == 0).run(0, 300) == []


def test_one_unit_joins_in_a_cooldown() -> None:
    """However late requests are, the second unit waits; what was late before counts no more."""
    fleet = Fleet(RULES, late=lambda second: 5 if second < 100 else 0)
    assert fleet.run(0, 100) == [
        (0, "start", "s1"),
        (5, "joined", "s1"),
        (30, "start", "s2"),
        (35, "joined", "s2"),
    ]
    calm = Fleet(replace(RULES, window_s=60), late=lambda second: 5 if second < 5 else 0)
    assert [what for _, what, _ in calm.run(0, 60)] == ["start", "joined"]


def test_no_more_units_than_the_maximum() -> None:
    """Two units and a maximum of three: only one joins; with a maximum of two none does."""
    fleet = Fleet(replace(RULES, max_units=3), late=lambda second: 5)
    assert fleet.run(0, 300) == [(0, "start", "s1"), (5, "joined", "s1")]
    assert Fleet(replace(RULES, max_units=2), late=lambda second: 5).run(0, 300) == []


def test_a_unit_that_is_away_counts_towards_the_maximum() -> None:
    """It may come back at any moment."""
    fleet = Fleet(
        replace(RULES, max_units=2), late=lambda second: 5, down=lambda name, s: name == "u0"
    )
    assert fleet.run(0, 100) == []


def test_no_fewer_units_than_the_minimum() -> None:
    """A spare unit stays when without it fewer than the minimum would take requests."""
    fleet = Fleet(replace(RULES, min_units=3), late=lambda second: 5 * (second < 1))
    assert fleet.run(0, 500) == [(0, "start", "s1"), (5, "joined", "s1")]


def test_lost_units_are_made_up_for() -> None:
    """Below the minimum for a whole cooldown, units start though nobody is late."""
    fleet = Fleet(
        replace(RULES, min_units=2), down=lambda name, s: name in ("u0", "u1") and s >= 50
    )
    assert fleet.run(0, 200) == [
        (80, "start", "s1"),
        (81, "start", "s2"),
        (85, "joined", "s1"),
        (86, "joined", "s2"),
    ]


def test_a_unit_that_is_needed_stays() -> None:
    """Three units with five requests each: without one, the others would be too full."""
    fleet = Fleet(RULES, late=lambda second: 5 * (second < 1), busy=lambda second: 5)
    assert fleet.run(0, 500) == [(0, "start", "s1"), (5, "joined", "s1")]
    light = Fleet(RULES, late=lambda second: 5 * (second < 1), busy=lambda second: 2)
    assert ("drain", "s1") in [event[1:] for event in light.run(0, 500)]


def test_a_unit_is_stopped_only_when_it_runs_nothing() -> None:
    """It drains for as long as its requests take."""
    fleet = Fleet(
        RULES, late=lambda second: 5 * (second < 1), busy=lambda second: 2 if second < 150 else 0
    )
    assert fleet.run(0, 300)[2:] == [(65, "drain", "s1"), (150, "stop", "s1")]


def test_a_draining_unit_is_taken_back_in() -> None:
    """When requests are late while it drains, nothing needs to be started."""
    fleet = Fleet(
        RULES,
        late=lambda second: 5 * (second in (0, 80)),
        busy=lambda second: 2,
    )
    assert fleet.run(0, 110)[2:] == [(65, "drain", "s1"), (80, "keep", "s1")]


def test_a_failed_start_is_tried_again_later_and_later() -> None:
    """After 10, 20, 40 seconds; the other unit stands in, and the cooldown holds for it too."""
    fleet = Fleet(
        replace(RULES, cooldown_s=1, backoff_s=10),
        late=lambda second: 5,
        failing_starts={"s1"},
        standby=(Standby("s1"),),
    )
    assert fleet.run(0, 100) == [(second, "start", "s1") for second in (0, 10, 30, 70)]
    assert fleet.controller.standby["s1"].last_error == "no machine is free"
    both = Fleet(RULES, late=lambda second: 5, failing_starts={"s1"})
    assert both.run(0, 40) == [(0, "start", "s1"), (30, "start", "s2"), (35, "joined", "s2")]


def test_a_unit_that_never_becomes_healthy_is_stopped() -> None:
    """It counts as failed after the time that a start may take."""
    fleet = Fleet(
        RULES, late=lambda second: 5, standby=(Standby("s1"),), boot_s={"s1": float("inf")}
    )
    assert fleet.run(0, 105) == [(0, "start", "s1"), (100, "stop", "s1")]
    assert fleet.controller.standby["s1"].last_error == "was not healthy within 100 s"


def test_a_unit_that_dies_is_stopped_and_started_again() -> None:
    """Not healthy for 30 s after it had joined: it is ended for certain, and may come back."""
    fleet = Fleet(
        RULES,
        late=lambda second: 5,
        standby=(Standby("s1"),),
        down=lambda name, second: name == "s1" and 40 <= second < 75,
    )
    assert fleet.run(0, 100) == [
        (0, "start", "s1"),
        (5, "joined", "s1"),
        (69, "stop", "s1"),
        (79, "start", "s1"),
        (84, "joined", "s1"),
    ]


def test_a_failed_stop_is_tried_until_it_works() -> None:
    """What runs costs money: stopping goes on, with longer and longer pauses."""
    fleet = Fleet(
        RULES,
        late=lambda second: 5 * (second < 1),
        failing_stops=lambda second: second < 100,
    )
    assert fleet.run(0, 200)[2:] == [
        (65, "drain", "s1"),
        (66, "stop", "s1"),
        (76, "stop", "s1"),
        (96, "stop", "s1"),
        (136, "stop", "s1"),
    ]


def test_a_unit_joins_only_for_its_own_model() -> None:
    """Late requests for another model start the unit that serves it."""
    standby = (Standby("s1", model="other"), Standby("s2", model="m"))
    fleet = Fleet(RULES, standby=standby, late=lambda second: 5 * (second < 1))
    assert fleet.run(0, 10) == [(0, "start", "s2"), (5, "joined", "s2")]


def test_switched_off_nothing_joins_or_leaves() -> None:
    """What is under way goes on to its end."""
    fleet = Fleet(RULES, late=lambda second: 5)
    fleet.run(0, 3)
    fleet.controller.rules = replace(RULES, mode="off")
    assert fleet.run(3, 300) == [(0, "start", "s1"), (5, "joined", "s1")]


@given(data=st.data())
@settings(max_examples=60)
def test_bounds_hold_whatever_happens(data: st.DataObject) -> None:
    """Never above the maximum, no leave below the minimum, one change in a cooldown."""
    seconds = 150
    draw = data.draw
    seconds_of = st.lists(st.booleans(), min_size=seconds, max_size=seconds)
    late, busy, away, stuck = (draw(seconds_of) for _ in range(4))
    rules = replace(
        RULES,
        min_units=draw(st.integers(0, 3)),
        max_units=draw(st.integers(2, 5)),
        cooldown_s=draw(st.integers(1, 20)),
        idle_s=draw(st.integers(1, 10)),
        start_timeout_s=draw(st.integers(5, 20)),
    )
    fleet = Fleet(
        rules,
        standby=tuple(Standby(f"s{index}") for index in range(3)),
        late=lambda second: 3 * late[second],
        busy=lambda second: 5 * busy[second],
        boot_s={"s0": draw(st.integers(0, 30)), "s1": draw(st.integers(0, 30))},
        failing_starts=draw(st.sets(st.sampled_from(["s0", "s1", "s2"]))),
        failing_stops=lambda second: stuck[second],
        down=lambda name, second: name == "u0" and away[second],
    )
    for second in range(seconds):
        num_done = len(fleet.trace)
        seen = fleet.step(second)
        present = 2 + sum(one.state != "off" for one in fleet.controller.standby.values())
        assert present <= max(rules.max_units or 0, 2)
        able = sum(unit.takes_requests for unit in seen.units)
        if "drain" in [what for _, what, _ in fleet.trace[num_done:]]:
            assert able - 1 >= rules.min_units
    drains = [second for second, what, _ in fleet.trace if what == "drain"]
    assert all(b - a >= rules.cooldown_s for a, b in itertools.pairwise(drains))


def test_a_unit_that_is_listed_no_more_ends_what_it_runs_and_is_stopped() -> None:
    """However late requests are; it neither starts nor is kept, and can be forgotten then."""
    fleet = Fleet(RULES, late=lambda second: 5, standby=(Standby("s1"),), busy=lambda s: s < 30)
    fleet.run(0, 10)
    fleet.controller.relist({"s2": None})
    trace = fleet.run(10, 100)
    assert [one for one in trace if one[2] == "s1"] == [
        (0, "start", "s1"),
        (5, "joined", "s1"),
        (10, "drain", "s1"),
        (30, "stop", "s1"),
    ]
    fleet.controller.forget("s1")
    assert list(fleet.controller.standby) == ["s2"]


def test_a_unit_is_stopped_before_it_has_joined_if_it_is_listed_no_more() -> None:
    """Though its engine would have been there soon."""
    fleet = Fleet(RULES, late=lambda second: 5, standby=(Standby("s1"),), boot_s={"s1": 50})
    fleet.run(0, 10)
    fleet.controller.relist({})
    assert fleet.run(10, 100) == [(0, "start", "s1"), (10, "stop", "s1")]


def test_who_is_listed_again_goes_on() -> None:
    """One that drains is kept when it is needed; the order is that of the list."""
    fleet = Fleet(RULES, late=lambda second: 5, standby=(Standby("s1"),), busy=lambda s: 1)
    fleet.run(0, 10)
    fleet.controller.relist({})
    fleet.run(10, 12)
    fleet.controller.relist({"s0": None, "s1": None})
    assert list(fleet.controller.standby) == ["s0", "s1"]
    assert fleet.run(12, 20)[-2:] == [(10, "drain", "s1"), (12, "keep", "s1")]
