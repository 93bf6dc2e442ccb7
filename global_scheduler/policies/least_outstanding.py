"""Fewest requests in flight; ties go to fewest tokens, then to chance."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit on which this gateway has the fewest requests in flight."""
    best = min(
        candidates, key=lambda c: (c.num_outstanding, c.num_outstanding_tokens, rng.random())
    )
    return Choice(best.unit)
