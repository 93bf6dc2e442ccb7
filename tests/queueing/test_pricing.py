"""What a split of the units would cost, and which threshold tells classes apart best."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from global_scheduler.pools.base import PooledUnit, SplitPrice
from global_scheduler.pools.classes import Classifier
from global_scheduler.pools.pricing import (
    Load,
    ShareForecast,
    plan,
    price,
    split_of,
    splits_to_price,
    upcoming,
)
from tests.queueing.requests import request

CLASSES = Classifier(threshold_tokens=1_000.0)


def unit(name: str, active: int = 0) -> PooledUnit:
    """In the pool that its first letter says."""
    return PooledUnit(name, "long" if name.startswith("l") else "short", active)


def loads(*units: PooledUnit) -> list[Load]:
    """Without anything to do."""
    return [Load(one, 0.0) for one in units]


@pytest.mark.parametrize(
    ("num_long", "long"),
    [
        (0, set()),
        (1, {"l1"}),
        (2, {"l0", "l1"}),
        (3, {"l0", "l1", "s1"}),
        (4, {"l0", "l1", "s0", "s1"}),
    ],
)
def test_the_fewest_and_least_busy_units_change(num_long: int, long: set[str]) -> None:
    """Busy long units stay long; idle short ones join first."""
    units = [unit("s0", 5), unit("s1", 1), unit("l0", 0), unit("l1", 3)]
    found = split_of(units, num_long)
    assert {name for name, pool in found.items() if pool == "long"} == long


@given(st.integers(1, 100), st.data())
def test_splits_that_are_priced(num_units: int, data: st.DataObject) -> None:
    """All of them up to 16 units; of more, a bounded number with the present one's neighbours."""
    num_long = data.draw(st.integers(1, num_units))
    splits = splits_to_price(num_long, num_units)
    if num_units <= 16:
        assert splits == list(range(1, num_units + 1))
    assert len(splits) <= 17
    neighbours = {num_long - 1, num_long, num_long + 1}
    assert {1, num_units} | neighbours & set(range(1, num_units + 1)) <= set(splits)


def test_long_requests_share_the_long_units_only() -> None:
    """Each request goes to the unit with the least to do, in the order in which they leave."""
    chats = [
        request(f"c{n}", num_prompt_tokens=100, expected_output_tokens=100.0) for n in range(3)
    ]
    book = request("book", num_prompt_tokens=5_000)
    given_loads = [Load(unit("s0"), 150.0), Load(unit("s1"), 0.0), Load(unit("l0"), 160.0)]
    shares = plan(given_loads, 1, [*chats, book], CLASSES.class_of)
    names = {name: [one.request_id for one in share] for name, share in shares.items()}
    assert names == {"s0": ["c1"], "s1": ["c0"], "l0": ["c2", "book"]}


def test_a_class_without_units_shares_those_of_the_other() -> None:
    """As if there were no pools."""
    book, chat = request("book", num_prompt_tokens=5_000), request("chat")
    shares = plan(loads(unit("s0")), 0, [book, chat], CLASSES.class_of)
    assert [one.request_id for one in shares["s0"]] == ["book", "chat"]


def test_what_arrived_lately_is_expected_again() -> None:
    """After what waits, of which short requests leave first."""
    book, chat = request("book", 3.0, num_prompt_tokens=5_000), request("chat", 4.0)
    found = upcoming(
        [book, chat], [request("old", 6.5)], CLASSES.class_of, horizon_s=4.0, num_units=1
    )
    assert [(one.request_id, one.arrived_s) for one in found] == [
        ("chat", 4.0),
        ("book", 3.0),
        ("expected-old", 10.5),
    ]


def test_long_queues_are_not_asked_about_to_their_ends() -> None:
    """The first of each class, so many for each unit."""
    chats = [request(f"c{n}") for n in range(200)]
    books = [request(f"b{n}", num_prompt_tokens=5_000) for n in range(200)]
    found = upcoming([*chats, *books], chats, CLASSES.class_of, horizon_s=4.0, num_units=2)
    assert [one.request_id for one in found[63:66]] == ["c63", "b0", "b1"]
    assert len(found) == 64 + 64 + 64


@given(st.lists(st.integers(1, 3_000), max_size=30), st.integers(1, 5), st.data())
def test_every_request_has_one_share(sizes: list[int], num_units: int, data: st.DataObject) -> None:
    """Under any split."""
    requests = [request(f"{n}", num_prompt_tokens=size) for n, size in enumerate(sizes)]
    units = [unit(f"s{n}") for n in range(num_units)]
    shares = plan(loads(*units), data.draw(st.integers(0, num_units)), requests, CLASSES.class_of)
    shared = sorted(one.request_id for share in shares.values() for one in share)
    assert shared == sorted(one.request_id for one in requests)


def test_a_price_adds_up() -> None:
    """Goals by class; waits so far count."""
    shares = {
        "s0": [
            request("waited", 97.0, ttft_goal_s=4.0),  # 3 s already, 2 more: late
            request("new", 100.0, ttft_goal_s=5.0),
        ],
        "l0": [request("book", 100.0, num_prompt_tokens=5_000)],  # 1 s and 5 are typical
        "s1": [],
    }
    forecasts = {
        "s0": ShareForecast([2.0, 2.5], drain_s=6.0, num_slo_broken=2),
        "l0": ShareForecast([20.0], drain_s=30.0),
    }
    found = price(shares, forecasts, CLASSES.class_of, 100.0)
    assert found == SplitPrice(3, 1 + 2, 1, 30.0, lateness=1.0 + 0.5 + 1.0)


def test_future_requests_wait_for_what_is_before_them_only() -> None:
    """Each adds work that begins when both it and its turn have come."""
    goal = {"ttft_goal_s": 10.0}
    share = [
        request("now", 100.0, **goal),  # a second of work
        request("meanwhile", 100.5, **goal),  # two seconds, half a second late
        request("later", 104.0, **goal),  # half a second, when all is idle
        request("with it", 104.0, **goal),  # in the same batch
    ]
    forecast = {"s0": ShareForecast([1.0, 3.0, 3.5, 3.5], drain_s=9.0)}
    found = price({"s0": share}, forecast, CLASSES.class_of, 100.0)
    assert found.lateness * 10.0 == pytest.approx(1.0 + 2.5 + 0.5 + 0.5)


def test_a_threshold_is_learnt_from_prices() -> None:
    """The one under which the fewest goals are missed, if that saves two."""
    classes = Classifier(1_000.0)
    assert classes.alternatives() == [500.0, 700.0, 1_000.0, 1_400.0, 2_000.0]
    same = {value: SplitPrice(10, 3, 0, 0.0) for value in classes.alternatives()}
    assert not classes.learn(same | {1_400.0: SplitPrice(10, 2, 0, 0.0)})
    assert classes.learn(same | {1_400.0: SplitPrice(10, 1, 0, 0.0)})
    assert classes.threshold_tokens == 1_400.0
    assert not classes.learn({500.0: SplitPrice(10, 0, 0, 0.0)})  # the present one is not priced


def test_thresholds_stay_within_reason() -> None:
    """However long it learns in one direction: a quarter of the first, or four times it."""
    for sign, farthest in ((1, 250.0), (-1, 4_000.0)):
        classes = Classifier(1_000.0)
        for _ in range(20):
            prices = {v: SplitPrice(1, sign * int(v), 0, 0.0) for v in classes.alternatives()}
            classes.learn(prices)
        assert classes.threshold_tokens == pytest.approx(farthest, rel=0.3)
        assert 250.0 <= classes.threshold_tokens <= 4_000.0


def test_long_is_from_the_threshold_on() -> None:
    """Prompt and expected output together."""
    at = request("at", num_prompt_tokens=600, expected_output_tokens=400.0)
    below = request("below", num_prompt_tokens=600, expected_output_tokens=399.0)
    assert (CLASSES.class_of(at), CLASSES.class_of(below)) == ("long", "short")
