"""When units change pool: AdaSplit's rules to the letter, and those by forecast."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from global_scheduler.pools.base import (
    Controller,
    Demand,
    Move,
    PooledUnit,
    PoolSituation,
    SplitPrice,
)
from global_scheduler.pools.predictive import Predictive, PredictiveLimits
from global_scheduler.pools.qhap import Qhap, QhapLimits
from global_scheduler.pools.static import Static
from global_scheduler.pools.stealing import (
    StealForecast,
    StealSituation,
    is_harmless,
    rasp,
    worth_asking,
)
from global_scheduler.queueing.waiting import RequestClass


def units(num_short: int, num_long: int) -> list[PooledUnit]:
    """s0, s1 ... and l0, l1 ...; the higher the number, the fewer requests they run."""
    short = [PooledUnit(f"s{n}", "short", num_short - n) for n in range(num_short)]
    return short + [PooledUnit(f"l{n}", "long", num_long - n) for n in range(num_long)]


def situation(
    num_short: int,
    num_long: int,
    queue_long: int,
    prices: Mapping[int, SplitPrice] | None = None,
    *,
    num_expected_long: int = 1,
) -> PoolSituation:
    """A moment."""
    demand = Demand(0, queue_long, num_expected_long, prices)
    return PoolSituation(units(num_short, num_long), demand)


def trace(
    controller: Controller, num_units: int, queue_long: Sequence[tuple[float, int]]
) -> list[tuple[float, str]]:
    """(time, move) of a fleet that begins all short, with so many long requests waiting when."""
    pools = {f"u{n}": "short" for n in range(num_units)}
    moves = []
    for now_s, waiting in queue_long:
        fleet = [PooledUnit(name, pool, 0) for name, pool in pools.items()]  # type: ignore[arg-type]
        move = controller.decide(PoolSituation(fleet, Demand(0, waiting)), now_s)
        if move is not None:
            pools[move.unit] = move.to
            moves.append((now_s, f"{move.unit} {move.to}"))
    return moves


def test_static_never_moves() -> None:
    """Whatever waits."""
    assert Static().decide(situation(3, 1, 1_000), 0.0) is None


@pytest.mark.parametrize(
    ("queue_long", "moved"),
    [(0, "l1 short"), (1, "l1 short"), (2, ""), (10, ""), (11, "s1 long")],
)
def test_qhap_thresholds(queue_long: int, moved: str) -> None:
    """More than 10 waiting long requests: one more long unit; fewer than 2: one less."""
    move = Qhap(QhapLimits()).decide(situation(2, 2, queue_long), 0.0)
    assert ("" if move is None else f"{move.unit} {move.to}") == moved


def test_qhap_keeps_one_short_unit() -> None:
    """However many long requests wait."""
    assert Qhap(QhapLimits()).decide(situation(1, 3, 1_000), 0.0) is None


def test_qhap_over_time() -> None:
    """At most one move in five seconds, up and down alike."""
    crowd = [(float(second), 50) for second in range(17)]
    calm = [(float(second), 0) for second in range(17, 35)]
    assert trace(Qhap(QhapLimits()), 4, crowd + calm) == [
        (0.0, "u0 long"),
        (5.0, "u1 long"),
        (10.0, "u2 long"),
        (17.0, "u0 short"),
        (22.0, "u1 short"),
        (27.0, "u2 short"),
    ]


def test_qhap_keeps_long_units_if_told() -> None:
    """``min_long`` is not of the seed: it keeps a lone long request from waiting for ever."""
    assert Qhap(QhapLimits(min_long=1)).decide(situation(3, 1, 0), 0.0) is None


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 40)), max_size=60), st.integers(1, 6))
def test_qhap_guards(steps: list[tuple[float, int]], num_units: int) -> None:
    """Under any queue: one short unit at least, and five seconds between moves."""
    now_s, waits = 0.0, []
    for gap_s, waiting in steps:
        now_s += gap_s
        waits.append((now_s, waiting))
    moves = trace(Qhap(QhapLimits()), num_units, waits)
    num_short = num_units
    for _, move in moves:
        num_short += 1 if move.endswith("short") else -1
        assert 1 <= num_short <= num_units
    times = [time for time, _ in moves]
    assert all(b - a >= 5.0 for a, b in itertools.pairwise(times))


def priced(*missed: int) -> dict[int, SplitPrice]:
    """Prices of 0, 1, ... long units: goals missed by short requests."""
    return {number: SplitPrice(10, count, 0, 1.0) for number, count in enumerate(missed)}


def test_a_move_must_seem_right_twice() -> None:
    """And then one unit moves towards the cheapest split, though that is two away."""
    controller = Predictive(PredictiveLimits(), Static())
    seen = situation(3, 0, 0, priced(9, 7, 2))
    assert controller.decide(seen, 0.0) is None
    move = controller.decide(seen, 1.0)
    assert move is not None
    assert (move.unit, move.to) == ("s2", "long")
    assert "2 long units would cost 2.0, 0 9.0" in move.reason


def test_small_gains_move_nothing() -> None:
    """A move costs something, and a tenth of the present price must be gained."""
    for missed in ((3, 2, 3), (100, 91, 95)):
        controller = Predictive(PredictiveLimits(move_cost=1.0), Static())
        assert [controller.decide(situation(3, 0, 0, priced(*missed)), t) for t in (0.0, 1.0)] == [
            None,
            None,
        ]


def test_a_wavering_forecast_moves_nothing() -> None:
    """Up, down, up, down: never twice the same."""
    controller = Predictive(PredictiveLimits(), Static())
    up, down = priced(9, 5, 0), priced(0, 5, 9)
    for second in range(10):
        seen = situation(2, 1, 0, up if second % 2 else down)
        assert controller.decide(seen, float(second)) is None


def test_forecasts_respect_the_guardrails_too() -> None:
    """One long unit stays, however good it would be for the short requests to have none."""
    controller = Predictive(PredictiveLimits(), Static())
    seen = situation(1, 1, 0, priced(0, 9, 9))
    assert [controller.decide(seen, time) for time in (0.0, 1.0, 2.0)] == [None] * 3


def test_without_prices_another_rule_decides() -> None:
    """No sidecar answers: Q-HAP, whose limits do not need them, at once."""
    controller = Predictive(PredictiveLimits(), Qhap(QhapLimits()))
    reason = "no prices, as qhap: queue_long 11 > 10"
    assert controller.decide(situation(2, 0, 11, {}), 0.0) == Move("s1", "long", reason)
    assert controller.decide(situation(2, 0, 11, {1: SplitPrice(9, 0, 0, 0.0)}), 1.0) is None


def test_nobody_asked_is_not_nobody_answered() -> None:
    """There is nothing to serve: no rule moves a unit."""
    controller = Predictive(PredictiveLimits(), Qhap(QhapLimits()))
    assert [controller.decide(situation(2, 1, 0, None), float(t)) for t in range(9)] == [None] * 9


def test_confinement_without_long_requests_is_lifted() -> None:
    """One by one; not while one may come soon."""
    controller = Predictive(PredictiveLimits(), Static())
    moves = []
    num_long = 1
    for second in range(9):
        is_calm = second >= 2
        prices = None if is_calm else priced(5, 5, 5, 5)
        seen = situation(3 - num_long, num_long, 0, prices, num_expected_long=not is_calm)
        move = controller.decide(seen, float(second))
        if move is not None:
            num_long += 1
            moves.append((second, f"{move.unit} {move.to}: {move.reason}"))
    assert moves == [
        (3, "s1 long: no long request waits or is expected"),
        (5, "s0 long: no long request waits or is expected"),
    ]


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=2, max_size=6),
    st.data(),
)
def test_constant_prices_move_units_one_way_only(
    missed: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Towards one split and no further, from wherever they begin."""
    prices = {n: SplitPrice(99, short, long, 1.0) for n, (short, long) in enumerate(missed)}
    num_units, controller = len(missed) - 1, Predictive(PredictiveLimits(), Static())
    num_long = data.draw(st.integers(1, num_units))
    steps = []
    for second in range(60):
        move = controller.decide(
            situation(num_units - num_long, num_long, 1, prices), float(second)
        )
        if move is not None:
            steps.append(1 if move.to == "long" else -1)
            num_long += steps[-1]
            assert 1 <= num_long <= num_units
    assert len(set(steps)) <= 1


@given(
    st.sampled_from(["short", "long"]),
    st.integers(0, 3),
    st.one_of(st.floats(0.0, 10.0), st.sampled_from([2.0, 2.0000001, float("inf")])),
)
def test_rasp_if_and_only_if(pool: RequestClass, num_own_waiting: int, idle_s: float) -> None:
    """A short unit, nothing of its own waits, idle for more than two seconds: all three."""
    allowed = pool == "short" and num_own_waiting == 0 and idle_s > 2.0
    assert rasp(StealSituation(pool, idle_s, num_own_waiting)) == allowed


def test_what_a_forecast_allows() -> None:
    """No goal breaks, and the prefill is over before the next request of the unit's own."""
    assert worth_asking(StealSituation("short", 0.0, 0))
    assert not worth_asking(StealSituation("short", 9.0, 1))
    assert is_harmless(StealForecast(ttft_s=0.5, num_slo_broken=0, gap_s=0.5))
    assert not is_harmless(StealForecast(ttft_s=0.6, num_slo_broken=0, gap_s=0.5))
    assert not is_harmless(StealForecast(ttft_s=0.1, num_slo_broken=1, gap_s=9.0))
