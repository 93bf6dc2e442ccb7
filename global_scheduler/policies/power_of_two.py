"""Two units at random, the less loaded of them (Mitzenmacher, 2001)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies import load_balanced
from global_scheduler.policies.base import Candidate, Choice, RoutedRequest


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """Compares only two, so that decisions made at the same time do not all take the same unit."""
    two = rng.sample(candidates, min(2, len(candidates)))
    return load_balanced.choose(request, two, turn, rng)
