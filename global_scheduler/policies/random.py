"""Any unit, with equal chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """A unit drawn uniformly."""
    return Choice(rng.choice(candidates).unit)
