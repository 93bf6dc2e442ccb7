"""The search for a capacity."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exp.study.capacity import CapacitySearch


def figures(ttft_ms: float, answered: float = 1.0) -> dict[str, float]:
    return {"all.ttft_ms.p99": ttft_ms, "all.answered_share": answered}


def search_out(search: CapacitySearch, ttft_ms: Callable[[float], float]) -> list[float]:
    """Runs it to its end; the rates that it asked for."""
    asked = []
    while (rate_per_s := search.next_rate()) is not None:
        asked.append(rate_per_s)
        search.add(rate_per_s, figures(ttft_ms(rate_per_s)))
    return asked


@given(st.floats(4.0, 300.0), st.floats(4.0, 300.0))
def test_finds_the_capacity_to_two_percent_wherever_it_begins(near: float, true: float) -> None:
    """For latencies that only rise with the rate, the next rate of the grid misses the limit."""
    search = CapacitySearch(near, 1.02, [3_000.0])
    asked = search_out(search, lambda rate: 3_000.0 * rate / true)
    found = search.capacity_per_s(3_000.0)
    if true < near / 16.5:
        assert found is None or found <= true
    elif true < near * 16:
        assert found is not None
        assert true / 1.0205 <= found <= true
    assert len(asked) == len(set(asked)) <= 14


def test_limits_share_their_runs() -> None:
    """The second limit's bracket is there already when the first one is done."""
    both = CapacitySearch(30.0, 1.02, [10_000.0, 3_000.0])
    asked = search_out(both, lambda rate: 100.0 * rate)
    assert both.capacity_per_s(3_000.0) == pytest.approx(30.0)
    assert both.capacity_per_s(10_000.0) == pytest.approx(100.0, rel=0.021)
    alone = [CapacitySearch(30.0, 1.02, [limit_ms]) for limit_ms in (3_000.0, 10_000.0)]
    assert len(asked) < sum(len(search_out(one, lambda rate: 100.0 * rate)) for one in alone)


def test_systems_meet_at_the_same_rates() -> None:
    """All rates lie on one grid, so that equal rates are equal to the last digit."""
    fast, slow = (CapacitySearch(20.0, 1.02, [3_000.0]) for _ in range(2))
    search_out(fast, lambda rate: 3_000.0 * rate / 31.0)
    asked = search_out(slow, lambda rate: 3_000.0 * rate / 23.0)
    grid = {float(f"{20.0 * 1.02**index:.6g}") for index in range(-150, 150)}
    assert set(asked) <= grid
    assert fast.capacity_per_s(3_000.0) in grid


def test_unanswered_requests_count_as_missing_the_limit() -> None:
    """A system that refuses two percent has not kept up, however fast the others were."""
    search = CapacitySearch(20.0, 1.02, [3_000.0])
    while (rate_per_s := search.next_rate()) is not None:
        search.add(rate_per_s, figures(50.0, 1.0 if rate_per_s < 25.0 else 0.98))
    found = search.capacity_per_s(3_000.0)
    assert found is not None
    assert 25.0 / 1.0201 <= found < 25.0


def test_a_failed_run_leaves_no_answer() -> None:
    """Nothing more is asked for, and no number is made up."""
    search = CapacitySearch(20.0, 1.02, [3_000.0])
    search.add(20.0, figures(50.0))
    search.give_up()
    assert search.next_rate() is None
    assert search.capacity_per_s(3_000.0) is None
