"""Equal prompt beginnings on one unit, within bounds: consistent hashing with bounded loads.

After Mirrokni, Thorup and Zadimoghaddam (2018): a key goes to the first unit of its order that has
less than c times its share of the load, so that no beginning, however popular, overloads a unit.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from global_scheduler.policies import load_balanced
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.rendezvous import by_preference

MOST_OF_MEAN = 1.25
"""The c of the paper: a unit takes at most so many times the mean load."""


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The first unit within bounds, in the order of the prompt's beginning."""
    if not request.opening:
        return Choice(load_balanced.choose(request, candidates, turn, rng).unit, reason="no prefix")
    bounds = load_bounds(candidates)
    preferred = by_preference(request.opening, candidates)
    for position, candidate in enumerate(preferred):
        if candidate.num_outstanding < bounds[candidate.unit]:
            return Choice(candidate.unit, reason="overflow" if position else "prefix")
    raise AssertionError("the bounds add up to more than the load")


def load_bounds(candidates: Sequence[Candidate]) -> dict[str, int]:
    """The most requests that each unit may have, the new one included.

    Shares go by the units' limits: of two units, the one that may have twice as many requests at a
    time takes twice as many.
    """
    num_requests = sum(c.num_outstanding for c in candidates) + 1
    weights = {c.unit: max(1, c.concurrency_limit or 1) for c in candidates}
    mean = num_requests / sum(weights.values())
    return {unit: math.ceil(MOST_OF_MEAN * mean * weight) for unit, weight in weights.items()}
