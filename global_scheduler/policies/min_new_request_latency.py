"""Astrolabe: the unit on which the new request is predicted to end first."""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.missing import choose_least


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of least predicted E2E latency."""
    return choose_least(request, candidates, turn, rng, lambda p: p.comparable_e2e_ms or p.e2e_ms)
