"""What a split of the units would cost, and which threshold tells classes apart best."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from global_scheduler.pools.base import PooledUnit, SplitPrice
from global_scheduler.pools.classes import Classifier
from global_scheduler.pools.pricing import Load, ShareForecast, plan, price, split_of
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
    [(0, set()), (1, {"l1"}), (2, {"l0", "l1"}), (3, {"l0", "l1", "s1"}), (4, {"l0", "l1", "s0", "s1"})],
)
def test_the_fewest_and_least_busy_units_change(num_long: int, long: set[str]) -> None:
    """Busy long units stay long; idle short ones join first."""
    units = [unit("s0", 5), unit("s1", 1), unit("l0", 0), unit("l1", 3)]
    found = split_of(units, num_long)
    assert {name for name, pool in found.items() if pool == "long"} == long


def test_shares_go_to_the_units_of_their_class() -> None:
    """Each to the one with the least to do, in the order in which they leave."""
    chats = [request(f"c{n}", num_prompt_tokens=100, expected_output_tokens=100.0) for n in range(3)]
    book = request("book", num_prompt_tokens=5_000)
    given_loads = [Load(unit("s0"), 150.0), Load(unit("s1"), 0.0), Load(unit("l0"), 0.0)]
    shares = plan(given_loads, 1, [*chats, book], CLASSES.class_of)
    names = {name: [one.request_id for one in share] for name, share in shares.items()}
    assert names == {"s0": ["c1"], "s1": ["c0", "c2"], "l0": ["book"]}


def test_a_class_without_units_comes_last_on_the_others() -> None:
    """As if stolen."""
    book, chat = request("book", num_prompt_tokens=5_000), request("chat")
    shares = plan(loads(unit("s0")), 0, [book, chat], CLASSES.class_of)
    assert [one.request_id for one in shares["s0"]] == ["chat", "book"]


@given(st.lists(st.integers(1, 3_000), max_size=30), st.integers(1, 5), st.data())
def test_every_request_has_one_share(sizes: list[int], num_units: int, data: st.DataObject) -> None:
    """Under any split."""
    requests = [request(f"{n}", num_prompt_tokens=size) for n, size in enumerate(sizes)]
    units = [unit(f"s{n}") for n in range(num_units)]
    shares = plan(loads(*units), data.draw(st.integers(0, num_units)), requests, CLASSES.class_of)
    shared = sorted(one.request_id for share in shares.values() for one in share)
    assert shared == sorted(one.request_id for one in requests)


def test_a_price_adds_up() -> None:
    """Goals by class; waits so far count; requests of the future are late only from then on."""
    shares = {
        "s0": [
            request("waited", 97.0, ttft_goal_s=4.0),  # 3 s already, 2 more: late
            request("new", 100.0),  # no goal: a second is typical for short ones
            request("future", 102.0),  # 2.5 s from now is half a second after it came
        ],
        "l0": [request("book", 100.0, num_prompt_tokens=5_000)],
        "s1": [],
    }
    forecasts = {
        "s0": ShareForecast([2.0, 0.5, 2.5], drain_s=6.0, num_slo_broken=2),
        "l0": ShareForecast([20.0], drain_s=30.0),
    }
    found = price(shares, forecasts, CLASSES.class_of, 100.0)
    assert found == SplitPrice(4, 1 + 2, 1, 30.0, lateness=1.0 + 0.5 + 0.5 + 1.0)


def test_a_threshold_is_learnt_from_prices() -> None:
    """The one under which the fewest goals are missed, if that saves a whole one."""
    classes = Classifier(1_000.0)
    assert classes.alternatives() == [500.0, 700.0, 1_000.0, 1_400.0, 2_000.0]
    same = {value: SplitPrice(10, 3, 0, 0.0) for value in classes.alternatives()}
    assert not classes.learn(same | {1_400.0: SplitPrice(10, 2, 0, 0.5)})
    assert classes.learn(same | {1_400.0: SplitPrice(10, 1, 0, 0.0)})
    assert classes.threshold_tokens == 1_400.0
    assert not classes.learn({500.0: SplitPrice(10, 0, 0, 0.0)})  # the present one is not priced


def test_thresholds_stay_within_reason() -> None:
    """However long it learns in one direction."""
    classes = Classifier(60.0)
    for _ in range(20):
        prices = {value: SplitPrice(1, int(value), 0, 0.0) for value in classes.alternatives()}
        classes.learn(prices)
    assert 50.0 <= classes.threshold_tokens < 60.0


def test_long_is_from_the_threshold_on() -> None:
    """Prompt and expected output together."""
    at = request("at", num_prompt_tokens=600, expected_output_tokens=400.0)
    below = request("below", num_prompt_tokens=600, expected_output_tokens=399.0)
    assert (CLASSES.class_of(at), CLASSES.class_of(below)) == ("long", "short")
