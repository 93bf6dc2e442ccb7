"""Each unit in turn."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit whose turn it is, in the order of names."""
    return Choice(candidates[turn % len(candidates)].unit)
