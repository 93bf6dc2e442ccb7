"""The least cost, where some units have not answered and some answers may be out of date.

A unit without an answer is judged by its load relative to units that answered. Leaving it out would
idle it for as long as its sidecar is down; falling back for every unit would throw away the answers
that did come.

What a sidecar predicts it has learnt from requests. A unit that seems slow gets none while others
are idle, and so would seem slow for ever, whatever made it so: now and then it is given one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from global_scheduler.policies import least_outstanding
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from wire.prediction import Prediction

NEAR_TIE = 1.001
"""Costs this close are equal: otherwise the microseconds between two answers would always send an
idle fleet's requests to the same unit."""
EXPLORE_AFTER_S = 10.0
"""A unit that has been sent nothing for so long is given a request,"""
EXPLORE_WITHIN = 1.5
"""if its cost is at most this multiple of the least one."""


def no_price(candidate: Candidate) -> float:
    """Nothing beside what is predicted."""
    return 0.0


def choose_least(
    request: RoutedRequest,
    candidates: Sequence[Candidate],
    turn: int,
    rng: random.Random,
    cost: Callable[[Prediction], float],
    price: Callable[[Candidate], float] = no_price,
) -> Choice:
    """The candidate of least ``cost`` and ``price``; near-ties go to fewest outstanding requests,
    then to chance.

    A candidate without a prediction costs the mean of the others' costs, scaled by its outstanding
    requests over theirs. Without any prediction ``least_outstanding`` decides. The price is what no
    prediction tells, and is paid for every candidate.

    Whatever numbers predictions hold, a candidate is chosen: a cost that is not finite is none.
    """
    known = {
        c.unit: its_cost
        for c in candidates
        if c.prediction is not None and math.isfinite(its_cost := cost(c.prediction))
    }
    if not known:
        choice = least_outstanding.choose(request, candidates, turn, rng)
        return Choice(choice.unit, fallback="least_outstanding")
    imputed = _mean_cost_per_load(known, candidates)
    costs = {
        c.unit: known.get(c.unit, imputed * (c.num_outstanding + 1)) + price(c) for c in candidates
    }
    least = min(costs.values())
    # Below 0 a multiple would be less than the least, and nothing would be that cheap.
    near_tie = max(least, least * NEAR_TIE)
    equals = [c for c in candidates if costs[c.unit] <= near_tie]
    best = min(equals, key=lambda c: (c.num_outstanding, rng.random()))
    forgotten = [
        c
        for c in candidates
        if c.idle_s > EXPLORE_AFTER_S
        and c.unit in known
        and costs[c.unit] <= max(least, least * EXPLORE_WITHIN)
    ]
    fallback = None if len(known) == len(candidates) else "imputed"
    if forgotten and best not in forgotten:
        longest = max(forgotten, key=lambda c: (c.idle_s, -costs[c.unit]))
        return Choice(longest.unit, fallback, is_exploration=True)
    return Choice(best.unit, fallback)


def _mean_cost_per_load(known: dict[str, float], candidates: Sequence[Candidate]) -> float:
    """Mean cost of the units that answered, for each outstanding request (the new one included)."""
    load = sum(c.num_outstanding + 1 for c in candidates if c.unit in known)
    return sum(known.values()) / load
