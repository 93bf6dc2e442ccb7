"""Policies choose as their names say, and say so when predictions were missing."""

import random
from collections.abc import Sequence
from dataclasses import replace
from math import inf

import pytest

from global_scheduler.policies import POLICIES
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from tests.global_scheduler.fleet import prediction

REQUEST = RoutedRequest("r", 100, 50.0)


def choose(policy: str, candidates: Sequence[Candidate], turn: int = 0, seed: int = 0) -> Choice:
    return POLICIES[policy].choose(REQUEST, candidates, turn, random.Random(seed))


def candidate(unit: str, outstanding: int = 0, tokens: int = 0, **fields: object) -> Candidate:
    return Candidate(unit, prediction(**fields) if fields else None, outstanding, tokens)


def test_min_new_request_latency_takes_the_least_predicted_e2e() -> None:
    """The default policy looks at the newcomer's own end, not at how many requests there are."""
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
