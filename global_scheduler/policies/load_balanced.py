"""Least load: requests in flight over what the unit may have; ties go to fewest tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of which the smallest share is taken."""
    best = min(candidates, key=lambda c: (c.load, c.num_outstanding_tokens, rng.random()))
    return Choice(best.unit)
