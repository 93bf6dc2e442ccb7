"""Sticky until saturated: the token-load rule of llm-d's router.

Units that hold most of the prompt in their prefix cache come first; among those considered, the one
with the fewest prompt tokens to compute, this request's included, wins. A unit without the prefix
is considered when every unit with it has much more to compute. The rule asks no sidecar.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest

WARM_SHARE = 0.8
"""A unit is warm if it holds this share of the prompt."""
MOST_WAIT_S = 18.0
"""T_max: how much longer than a cold unit's the backlog of the best warm unit may be."""


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of least token load; ties go to fewest requests, then to chance."""
    least_warm = WARM_SHARE * request.num_prompt_tokens
    warm = [c for c in candidates if c.num_cached_tokens >= least_warm]
    considered = _with_relief(warm, candidates) if warm else candidates

    def load(candidate: Candidate) -> tuple[int, int, float]:
        uncached = max(0, request.num_prompt_tokens - candidate.num_cached_tokens)
        tokens = candidate.num_uncached_tokens_in_flight + uncached
        return tokens, candidate.num_outstanding, rng.random()

    best = min(considered, key=load)
    return Choice(best.unit, reason="warm" if best in warm else "cold")


def _with_relief(warm: Sequence[Candidate], candidates: Sequence[Candidate]) -> list[Candidate]:
    """The warm units, and those that would have computed their backlog much earlier."""
    wait_s = min(map(_backlog_s, warm))
    return [c for c in candidates if c in warm or wait_s - _backlog_s(c) > MOST_WAIT_S]


def _backlog_s(candidate: Candidate) -> float:
    return candidate.num_uncached_tokens_in_flight / candidate.prefill_tokens_per_s
