"""Policies choose as their names say, and say so when predictions were missing."""

import random
from collections.abc import Sequence
from math import inf, nan
from typing import get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from global_scheduler.policies import POLICIES
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from tests.global_scheduler.fleet import prediction
from wire.prediction import Prediction

REQUEST = RoutedRequest("r", 100, 50.0)


def choose(policy: str, candidates: Sequence[Candidate], turn: int = 0, seed: int = 0) -> Choice:
    return POLICIES[policy].choose(REQUEST, candidates, turn, random.Random(seed))


def candidate(unit: str, outstanding: int = 0, tokens: int = 0, **fields: object) -> Candidate:
    return Candidate(unit, prediction(**fields) if fields else None, outstanding, tokens)


@pytest.mark.parametrize(
    ("harm", "chosen"),
    [
        ({}, "swift"),
        ({"added_delay_others_ms": 700.0}, "swift"),
        ({"added_delay_others_ms": 900.0}, "kind"),
        ({"num_slo_broken": 1}, "kind"),
        ({"ttft_ms": 400.0}, "kind"),
    ],
)
def test_min_total_delay_counts_what_others_suffer(harm: dict[str, float], chosen: str) -> None:
    """The unit on which the newcomer ends 800 ms earlier wins unless others pay more for it,
    a goal is broken for it, or its first token comes much later."""
    fields: dict[str, float] = {"e2e_ms": 1_000.0, "ttft_ms": 100.0} | harm
    swift = replace(candidate("swift"), prediction=prediction(**fields))
    kind = candidate("kind", e2e_ms=1_800.0, ttft_ms=100.0)
    assert choose("min_total_delay", [kind, swift]) == Choice(chosen)


@pytest.mark.parametrize(
    ("late_ms", "others_hold", "chosen"),
    [(1_500.0, 0, "warm"), (2_500.0, 0, "cold"), (900.0, 48, "warm"), (1_100.0, 48, "cold")],
)
def test_min_total_delay_pays_for_copies_of_a_prefix(
    late_ms: float, others_hold: int, chosen: str
) -> None:
    """50 tokens at 5,000 tokens/s are 10 ms of prefill: a unit that lacks them is chosen if it is
    200 times that better; half of it suffices where about as much is held elsewhere."""
    cold = candidate("cold", e2e_ms=1_000.0, ttft_ms=100.0)
    warm = replace(candidate("warm", e2e_ms=1_000.0 + late_ms, ttft_ms=100.0), num_cached_tokens=50)
    other = replace(candidate("other", e2e_ms=9e9), num_cached_tokens=others_hold)
    assert choose("min_total_delay", [cold, other, warm]) == Choice(chosen)


def test_min_new_request_latency_takes_the_least_predicted_e2e() -> None:
    """The policy looks at the newcomer's own end, not at how many requests there are."""
    candidates = [candidate("a", 1, e2e_ms=900.0), candidate("b", 9, e2e_ms=300.0)]
    assert choose("min_new_request_latency", candidates) == Choice("b")


def test_units_are_compared_by_what_is_known_of_them() -> None:
    """Corrections for the load that they are under do not decide between them."""
    idle = candidate("idle", e2e_ms=500.0, comparable_e2e_ms=400.0)
    busy = candidate("busy", e2e_ms=480.0, comparable_e2e_ms=470.0)
    assert choose("min_new_request_latency", [busy, idle]) == Choice("idle")


def test_min_total_unprocessed_tokens_takes_the_least_work_left() -> None:
    """The heuristic without simulation counts tokens."""
    candidates = [
        candidate("a", num_unprocessed_tokens=500, e2e_ms=1.0),
        candidate("b", num_unprocessed_tokens=400, e2e_ms=9.0),
    ]
    assert choose("min_total_unprocessed_tokens", candidates) == Choice("b")


@pytest.mark.parametrize(
    ("busy", "winner"),
    [
        ({"kv_blocks_free": 60, "num_running": 2}, "idle"),
        ({"kv_blocks_free": 100, "kv_blocks_wanted": 90, "num_waiting": 1}, "idle"),
        ({"kv_blocks_free": 100, "num_running": 0}, "busy"),
    ],
)
def test_min_llumnix_load_takes_the_greatest_freeness(busy: dict[str, int], winner: str) -> None:
    """Freeness is free blocks less those wanted by waiting prompts, for each request."""
    candidates = [candidate("busy", **busy), candidate("idle", 1, kv_blocks_free=50)]
    assert choose("min_llumnix_load", candidates).unit == winner


def test_least_outstanding_breaks_ties_by_tokens() -> None:
    """Equal counts go to the unit with less work in flight."""
    candidates = [candidate("a", 2, 10), candidate("b", 1, 900), candidate("c", 1, 800)]
    assert choose("least_outstanding", candidates) == Choice("c")


def test_round_robin_takes_turns() -> None:
    """Each unit in the order of names."""
    candidates = [candidate("a"), candidate("b"), candidate("c")]
    turns = [choose("round_robin", candidates, turn).unit for turn in range(5)]
    assert turns == ["a", "b", "c", "a", "b"]


def test_random_is_uniform_and_repeatable() -> None:
    """The generator is the only source of chance."""
    candidates = [candidate("a"), candidate("b")]
    rng = random.Random(3)
    units = [POLICIES["random"].choose(REQUEST, candidates, 0, rng).unit for _ in range(400)]
    assert 150 < units.count("a") < 250
    assert choose("random", candidates, seed=5) == choose("random", candidates, seed=5)


@pytest.mark.parametrize("policy", [p.name for p in POLICIES.values() if p.needs != "nothing"])
def test_without_any_prediction_the_least_outstanding_unit_is_taken(policy: str) -> None:
    """The fallback is named, so that it can be counted."""
    candidates = [candidate("a", 3), candidate("b", 1)]
    assert choose(policy, candidates) == Choice("b", fallback="least_outstanding")


def test_a_unit_without_a_prediction_is_judged_by_its_load() -> None:
    """A dead sidecar neither idles its unit nor makes it look free."""
    answered = [candidate("a", 1, e2e_ms=1000.0), candidate("b", 1, e2e_ms=1000.0)]
    idle, busy = candidate("c", 0), candidate("c", 5)
    assert choose("min_new_request_latency", [*answered, idle]) == Choice("c", fallback="imputed")
    assert choose("min_new_request_latency", [*answered, busy]).unit in ("a", "b")


def test_nearly_equal_costs_are_spread() -> None:
    """Microseconds between two answers do not decide which unit of an idle fleet is used."""
    candidates = [candidate("a", e2e_ms=500.004), candidate("b", e2e_ms=500.0)]
    rng = random.Random(1)
    policy = POLICIES["min_new_request_latency"]
    units = {policy.choose(REQUEST, candidates, 0, rng).unit for _ in range(20)}
    assert units == {"a", "b"}


@pytest.mark.parametrize(
    ("cost_ms", "idle_s", "winner"),
    [(130.0, 11.0, "slow"), (160.0, 11.0, "fast"), (130.0, 9.0, "fast"), (130.0, inf, "slow")],
)
def test_a_unit_that_seems_slow_is_tried_again(cost_ms: float, idle_s: float, winner: str) -> None:
    """After a while without requests, unless it seems so slow that a request would suffer."""
    slow = replace(candidate("slow", e2e_ms=cost_ms), idle_s=idle_s)
    choice = choose("min_new_request_latency", [candidate("fast", e2e_ms=100.0), slow])
    assert choice == Choice(winner, is_exploration=winner == "slow")


ANY_NUMBER: dict[type, st.SearchStrategy[float]] = {
    float: st.floats(),
    int: st.integers(-(2**63), 2**63 - 1),
}
any_prediction = st.builds(
    prediction,
    **{
        name: ANY_NUMBER[kind]
        for name, kind in get_type_hints(Prediction).items()
        if kind in ANY_NUMBER
    },
)
any_candidate = st.builds(
    Candidate,
    st.just(""),
    st.none() | any_prediction,
    st.integers(0, 10**6),
    st.integers(0, 10**12),
    idle_s=st.floats(0.0),
    concurrency_limit=st.none() | st.integers(1, 10**6),
    num_cached_tokens=st.integers(0, 10**7),
    num_uncached_tokens_in_flight=st.integers(0, 10**12),
    prefill_tokens_per_s=st.floats(1e-3, 1e9),
)


@given(st.lists(any_candidate, min_size=1, max_size=5), st.integers(0, 100))
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_chooses_whatever_was_predicted(
    policy: str, drawn: list[Candidate], turn: int
) -> None:
    """Negative, huge, infinite or no numbers at all: one of the candidates is taken."""
    candidates = [replace(one, unit=f"u{index}") for index, one in enumerate(drawn)]
    assert choose(policy, candidates, turn).unit in {one.unit for one in candidates}


@pytest.mark.parametrize("policy", ["min_total_delay", "min_new_request_latency"])
@pytest.mark.parametrize("figure", [nan, inf, -inf])
def test_a_prediction_without_a_finite_cost_is_none(policy: str, figure: float) -> None:
    """Its unit is judged by its load, as if its sidecar had not answered."""
    told, other = candidate("told", e2e_ms=figure), candidate("other", 1, e2e_ms=100.0)
    untold = candidate("told")
    assert choose(policy, [other, told]) == choose(policy, [other, untold])
    assert choose(policy, [told]) == Choice("told", fallback="least_outstanding")


def test_costs_below_zero_are_compared_like_others() -> None:
    """The least is taken, and those far from it neither tie with it nor are tried instead."""
    least, more = candidate("least", 5, e2e_ms=-200.0), candidate("more", e2e_ms=-100.0)
    assert choose("min_new_request_latency", [more, least]) == Choice("least")
    forgotten = replace(candidate("forgotten", e2e_ms=0.0), idle_s=inf)
    assert choose("min_new_request_latency", [forgotten, least]) == Choice("least")


def loaded(unit: str, outstanding: int, limit: int | None = 8, **fields: int) -> Candidate:
    return Candidate(unit, None, outstanding, 0, concurrency_limit=limit, **fields)


def test_load_balanced_compares_shares_of_what_units_may_have() -> None:
    """Six of sixteen are less than four of eight; equal shares go to fewer tokens."""
    assert choose("load_balanced", [loaded("a", 4, 8), loaded("b", 6, 16)]) == Choice("b")
    equal = [replace(loaded("a", 4, 8), num_outstanding_tokens=9), loaded("b", 8, 16)]
    assert choose("load_balanced", equal) == Choice("b")
    assert choose("load_balanced", [loaded("a", 2, None), loaded("b", 1, None)]) == Choice("b")


def test_power_of_two_takes_the_less_loaded_of_two() -> None:
    """Of three units the most loaded one is never chosen, and the middle one a third of times."""
    candidates = [loaded("a", 1), loaded("b", 2), loaded("c", 3)]
    rng = random.Random(1)
    choices = [
        POLICIES["power_of_two"].choose(REQUEST, candidates, 0, rng).unit for _ in range(600)
    ]
    assert choices.count("c") == 0
    assert 150 < choices.count("b") < 250
    assert choose("power_of_two", [loaded("only", 7)]) == Choice("only")


def owned(session: str = "", user: str = "") -> RoutedRequest:
    return replace(REQUEST, session_id=session, user=user)


def test_affinity_keeps_a_session_on_one_unit() -> None:
    """The session decides before the user, and load does not matter until the unit is full."""
    units = [loaded(name, index) for index, name in enumerate("abcd")]
    rng = random.Random(1)
    affinity = POLICIES["affinity"].choose

    def home(request: RoutedRequest) -> str:
        return affinity(request, units, 0, rng).unit

    homes = {home(owned(session=f"s{index}")) for index in range(50)}
    assert homes == {"a", "b", "c", "d"}
    assert all(home(owned("s1", user)) == home(owned("s1")) for user in "xyz")
    assert {home(owned(user="s1")) for _ in range(5)} == {home(owned(user="s1"))}
    full = [replace(c, num_outstanding=8) if c.unit == home(owned("s1")) else c for c in units]
    assert affinity(owned("s1"), full, 0, rng).unit != home(owned("s1"))


def test_affinity_without_an_owner_or_without_room_balances_load() -> None:
    """Nobody's requests stick to a unit, and full units do not stop requests."""
    units = [loaded("a", 5), loaded("b", 4)]
    choice = choose("affinity", units)
    assert (choice, choice.reason) == (Choice("b"), "no owner")
    full = [loaded("a", 9), loaded("b", 8)]
    choice = POLICIES["affinity"].choose(owned("s"), full, 0, random.Random(1))
    assert (choice, choice.reason) == (Choice("b"), "all full")


names = st.sets(st.text("abcdef", min_size=1, max_size=5), min_size=2, max_size=8)


@given(names, st.lists(st.text(max_size=8), min_size=1, max_size=20), st.data())
@pytest.mark.parametrize("policy", ["affinity", "locality"])
def test_only_what_a_leaving_unit_had_moves(
    policy: str, units: set[str], keys: list[str], data: st.DataObject
) -> None:
    """And it returns when the unit does."""
    before = [loaded(unit, 0) for unit in sorted(units)]
    gone = data.draw(st.sampled_from(sorted(units)))
    after = [candidate for candidate in before if candidate.unit != gone]
    for key in keys:
        request = replace(REQUEST, session_id=key, user="u", opening=key + "o")
        chosen = POLICIES[policy].choose(request, before, 0, random.Random(1)).unit
        moved = POLICIES[policy].choose(request, after, 0, random.Random(1)).unit
        assert (moved == chosen) == (chosen != gone)


def test_locality_overflows_along_the_prefix_own_order() -> None:
    """A popular beginning fills its unit up to the bound, then the next one of its order."""
    outstanding = dict.fromkeys("abcd", 0)
    sent = []
    for _ in range(8):
        candidates = [loaded(unit, count) for unit, count in outstanding.items()]
        request = replace(REQUEST, opening="popular")
        choice = POLICIES["locality"].choose(request, candidates, 0, random.Random(1))
        outstanding[choice.unit] += 1
        sent.append((choice.unit, choice.reason))
    first = sent[0][0]
    assert sent[0] == (first, "prefix")
    assert sorted(outstanding.values()) == [2, 2, 2, 2] or max(outstanding.values()) == 3
    assert [unit for unit, reason in sent if reason == "prefix"] == [first] * outstanding[first]


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 64)), min_size=1, max_size=12),
    st.text(min_size=1, max_size=8),
)
def test_locality_never_exceeds_its_bound(units: list[tuple[int, int]], opening: str) -> None:
    """The chosen unit stays within 1.25 times its share of the load, rounded up."""
    candidates = [loaded(f"u{i:02}", count, limit) for i, (count, limit) in enumerate(units)]
    request = replace(REQUEST, opening=opening)
    unit = POLICIES["locality"].choose(request, candidates, 0, random.Random(1)).unit
    chosen = next(c for c in candidates if c.unit == unit)
    total = sum(count for count, _ in units) + 1
    share = total * (chosen.concurrency_limit or 0) / sum(limit for _, limit in units)
    assert chosen.num_outstanding + 1 < 1.25 * share + 1


def warmth(unit: str, cached: int, in_flight: int = 0, outstanding: int = 0) -> Candidate:
    return loaded(
        unit,
        outstanding,
        num_cached_tokens=cached,
        num_uncached_tokens_in_flight=in_flight,
    )


@pytest.mark.parametrize(
    ("candidates", "winner"),
    [
        # 79 of 100 tokens are too few to be warm; then all compete by tokens to compute.
        ([warmth("a", 79, in_flight=500), warmth("b", 0)], "b"),
        ([warmth("a", 80, in_flight=500), warmth("b", 0)], "a"),
        ([warmth("a", 79), warmth("b", 0)], "a"),
        # Among warm ones the fewest tokens win, this request's uncached ones included.
        ([warmth("a", 80, in_flight=100), warmth("b", 96, in_flight=90)], "b"),
        ([warmth("a", 80, in_flight=100), warmth("b", 96, in_flight=110)], "b"),
        ([warmth("a", 80, in_flight=100), warmth("b", 96, in_flight=117)], "a"),
        # Equal tokens go to fewer requests.
        ([warmth("a", 0, outstanding=3), warmth("b", 0, outstanding=2)], "b"),
        # 18 s at 5,000 tokens a second: up to there the warm unit is kept to.
        ([warmth("a", 96, in_flight=90_000), warmth("b", 0)], "a"),
        ([warmth("a", 96, in_flight=90_001), warmth("b", 0)], "b"),
        ([warmth("a", 96, in_flight=90_001), warmth("b", 0, in_flight=1)], "a"),
        # What counts is the best warm unit's backlog.
        ([warmth("a", 96, in_flight=99_999), warmth("b", 0), warmth("c", 96, 9)], "c"),
    ],
)
def test_token_load_is_sticky_until_saturated(candidates: list[Candidate], winner: str) -> None:
    """Warm units first, the least to compute among them, and relief after 18 seconds."""
    assert choose("token_load", candidates) == Choice(winner)


def test_token_load_measures_backlogs_by_each_units_own_rate() -> None:
    """A slow unit's backlog of as many tokens takes longer."""
    slow = replace(warmth("a", 96, in_flight=20_000), prefill_tokens_per_s=1_000.0)
    assert choose("token_load", [slow, warmth("b", 0)]) == Choice("b")
    assert choose("token_load", [slow, warmth("b", 0, in_flight=10_001)]) == Choice("a")
