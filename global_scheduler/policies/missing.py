"""What a unit without an answer is worth: judged by its load relative to units that answered.

Leaving such a unit out would idle it for as long as its sidecar is down; falling back for every
unit would throw away the answers that did come.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from global_scheduler.policies import least_outstanding
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from wire.prediction import Prediction

NEAR_TIE = 1.001
"""Costs this close are equal: otherwise the microseconds between two answers would always send an
idle fleet's requests to the same unit."""


def choose_least(
    request: RoutedRequest,
    candidates: Sequence[Candidate],
    turn: int,
    rng: random.Random,
    cost: Callable[[Prediction], float],
) -> Choice:
    """The candidate of least ``cost``; near-ties go to fewest outstanding requests, then to chance.

    A candidate without a prediction costs the mean of the others' costs, scaled by its outstanding
    requests over theirs. Without any prediction ``least_outstanding`` decides.
    """
    known = {c.unit: cost(c.prediction) for c in candidates if c.prediction is not None}
    if not known:
        choice = least_outstanding.choose(request, candidates, turn, rng)
        return Choice(choice.unit, fallback="least_outstanding")
    imputed = _mean_cost_per_load(known, candidates)
    costs = {c.unit: known.get(c.unit, imputed * (c.num_outstanding + 1)) for c in candidates}
    bound = min(costs.values()) * NEAR_TIE
    equals = [c for c in candidates if costs[c.unit] <= bound]
    best = min(equals, key=lambda c: (c.num_outstanding, rng.random()))
    return Choice(best.unit, fallback=None if len(known) == len(candidates) else "imputed")


def _mean_cost_per_load(known: dict[str, float], candidates: Sequence[Candidate]) -> float:
    """Mean cost of the units that answered, for each outstanding request (the new one included)."""
    load = sum(c.num_outstanding + 1 for c in candidates if c.unit in known)
    return sum(known.values()) / load
