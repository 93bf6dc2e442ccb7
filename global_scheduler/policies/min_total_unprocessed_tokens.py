"""Astrolabe-NoSim: the unit with the fewest tokens left to process."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.missing import choose_least


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of fewest prompt and expected output tokens not processed yet."""
    return choose_least(request, candidates, turn, rng, lambda p: float(p.num_unprocessed_tokens))
