"""Which unit is in which pool as units come and go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from global_scheduler.pools.base import Demand, Move, SplitPrice
from global_scheduler.pools.book import CannotMove, Capacity, PoolBook
from global_scheduler.pools.qhap import QhapLimits
from global_scheduler.pools.regimes import PoolsName, RegimeRules, regime

ALL = ("a", "b", "c", "d")


def book(name: PoolsName, *, num_long: int = 1, may_steal: bool = True) -> PoolBook:
    """An empty one."""
    return PoolBook(regime(name, RegimeRules(num_long=num_long), may_steal=may_steal))


def fleet(*names: str, model: str = "m") -> list[Capacity]:
    """Idle units that serve one model."""
    return [Capacity(name, (model,), 0) for name in names]


def pools(of: PoolBook, *names: str) -> str:
    """First letters of the classes that they serve; ``-`` serves both."""
    return "".join((of.class_of(name) or "-")[0] for name in names)


def test_units_take_their_seats_as_they_come() -> None:
    """The first is short, the next are long until there are enough of these."""
    of = book("static", num_long=2)
    of.seat(fleet("a", "b"), ALL)
    assert pools(of, "a", "b") == "sl"
    of.seat(fleet(*ALL), ALL)
    assert pools(of, *ALL) == "slls"


def test_without_pools_all_serve_both() -> None:
    """And so does a unit that is alone in serving its model."""
    assert pools(PoolBook(None), "a") == "-"
    of = book("static")
    of.seat([*fleet("a", "b"), *fleet("x", model="other")], [*ALL, "x"])
    assert pools(of, "a", "b", "x") == "sl-"


def test_units_that_are_away_are_no_capacity_and_keep_their_place() -> None:
    """The last short unit's is taken by the least busy other one, the last long unit's, too."""
    of = book("static")
    of.seat(fleet("a", "b", "c"), ALL)
    assert pools(of, "a", "b", "c") == "sls"
    moves = of.seat([Capacity("b", ("m",), 5), Capacity("c", ("m",), 5)], ALL)
    assert (pools(of, "b", "c"), moves) == ("ls", [])
    moves = of.seat([Capacity("a", ("m",), 2), Capacity("c", ("m",), 1)], ALL)
    assert [(move.unit, move.to, move.reason) for move in moves] == [
        ("c", "long", "a long unit has gone")
    ]
    moves = of.seat([Capacity("b", ("m",), 2), Capacity("c", ("m",), 3)], ALL)
    assert [(move.unit, move.to, move.reason) for move in moves] == [
        ("b", "short", "the last short unit has gone")
    ]


def test_removed_units_are_forgotten() -> None:
    """One of the same name later is a new one."""
    of = book("static")
    of.seat(fleet("a", "b"), ALL)
    of.seat(fleet("a"), ["a"])
    assert of.pool_of("b") is None
    of.seat(fleet("a", "c", "d"), ["a", "c", "d"])
    assert pools(of, "a", "c", "d") == "sls"


def test_a_move_is_carried_out() -> None:
    """By the group's own controller; other groups do not notice."""
    of = book("qhap")
    of.seat([*fleet("a", "b", "c"), *fleet("x", "y", model="other")], [*ALL, "x", "y"])
    group, other = of.groups()
    assert (group.models, other.models) == (("m",), ("other",))
    reason = "queue_long 11 > 10"
    assert of.decide(("m",), Demand(0, 11), 0.0) == Move("a", "long", reason)
    assert pools(of, "a", "b", "c", "x", "y") == "llssl"
    reason = "queue_long 0 < 2"
    assert of.decide(("other",), Demand(0, 0), 1.0) == Move("y", "short", reason)
    assert of.decide(("gone",), Demand(0, 0), 1.0) is None


def test_predictive_begins_as_if_there_were_no_pools() -> None:
    """Its long units serve both classes; short ones are kept free of long requests."""
    of = book("predictive")
    of.seat(fleet("a", "b", "c"), ALL)
    assert pools(of, "a", "b", "c") == "---"
    prices = {n: SplitPrice(9, missed, 0, 1.0) for n, missed in enumerate((9, 5, 0, 9))}
    moves = [of.decide(("m",), Demand(0, 3, 3, prices), float(second)) for second in range(3)]
    assert [move and (move.unit, move.to) for move in moves] == [None, ("a", "short"), None]
    assert pools(of, "a", "b", "c") == "s--"
    assert of.pool_of("b") == "long"
    of.seat(fleet("a"), ALL)
    of.seat(fleet("a", "d"), ALL)
    assert pools(of, "a", "d") == "--"  # it was alone, so it had to serve both


def test_somebody_serves_long_requests_where_they_cannot_be_stolen() -> None:
    """Q-HAP, too, keeps a long unit then, and so does a partition that was to have none."""
    of = book("static", num_long=0, may_steal=False)
    of.seat(fleet("a", "b", "c"), ALL)
    assert pools(of, "a", "b", "c") == "sls"
    calm = Demand(0, 0)
    for may_steal, left in ((True, "sss"), (False, "sls")):
        of = book("qhap", may_steal=may_steal)
        of.seat(fleet("a", "b", "c"), ALL)
        for second in range(20):
            of.decide(("m",), calm, float(second))
        assert pools(of, "a", "b", "c") == left


def test_units_are_moved_by_hand() -> None:
    """All but the last short one, and those that are in no pool."""
    of = book("static")
    of.seat(fleet("a", "b", "c"), ALL)
    of.assign("a", "long")
    assert pools(of, "a", "b", "c") == "lls"
    with pytest.raises(CannotMove, match="unit 'c' is the last one for short requests"):
        of.assign("c", "long")
    with pytest.raises(CannotMove, match="'z'"):
        of.assign("z", "long")


def test_another_regime_divides_anew() -> None:
    """With its own beginning."""
    of = book("qhap")
    of.seat(fleet("a", "b", "c"), ALL)
    of.switch(regime("predictive", RegimeRules(), may_steal=True))
    assert pools(of, "a", "b", "c") == "---"
    of.seat(fleet("a", "b", "c"), ALL)
    of.switch(None)
    of.seat(fleet("a", "b", "c"), ALL)
    assert (pools(of, "a", "b", "c"), of.groups()) == ("---", [])


def test_units_may_stay_where_they_are_under_another_regime() -> None:
    """As when only the rule of stealing changes."""
    of = book("static", num_long=2)
    of.seat(fleet("a", "b", "c"), ALL)
    of.switch(regime("static", RegimeRules(num_long=1), may_steal=False), anew=False)
    of.seat(fleet("a", "b", "c"), ALL)
    assert pools(of, "a", "b", "c") == "sll"


@given(
    st.lists(st.tuples(st.sets(st.sampled_from(ALL)), st.integers(0, 30)), max_size=40),
    st.sampled_from(["static", "qhap", "predictive"]),
    st.booleans(),
)
def test_both_classes_are_served_however_units_come_and_go(
    moments: list[tuple[set[str], int]], name: PoolsName, may_steal: bool
) -> None:
    """Short requests always; long ones unless Q-HAP leaves them to be stolen."""
    of = book(name, may_steal=may_steal)
    for second, (present, queue_long) in enumerate(moments):
        of.seat(fleet(*present), ALL)
        of.decide(("m",), Demand(0, queue_long, prices={}), float(second))
        seen = pools(of, *present)
        assert not present or "s" in seen or "-" in seen
        if present and (name != "qhap" or not may_steal):
            assert "l" in seen or "-" in seen


def test_rules_reach_the_controllers() -> None:
    """Cooldowns and thresholds are those of the settings."""
    rules = RegimeRules(num_long=0, qhap=QhapLimits(scale_up_above=1, cooldown_s=1.0))
    of = PoolBook(regime("qhap", rules, may_steal=True))
    of.seat(fleet(*ALL), ALL)
    moves = [of.decide(("m",), Demand(0, 2), time) for time in (0.0, 0.5, 1.0, 2.0, 3.0)]
    assert [move and move.unit for move in moves] == ["a", None, "b", "c", None]
