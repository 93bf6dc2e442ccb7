"""The unit on which the new request costs everybody least, itself included.

A newcomer's own latency is what it asks for, but not all that it does: it slows the batch down for
those that decode already, takes blocks that they will want, and goes before nobody only if its
prompt is short. What-ifs predict both. Its time to first token counts more than once: in a queue
nobody suffers but the newcomer, so that without this weight it would be sent to wait behind others.

What-ifs see the prefill that a warm unit saves, but neither the prefixes that a second copy pushes
out of another unit's cache nor all who come later and wait for work done twice. So a unit that
lacks what others hold pays a price for each token, the less the more of them hold it already.

The weights were found on the digital twin (ADR 14).
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate, Choice, RoutedRequest
from global_scheduler.policies.missing import choose_least
from wire.prediction import Prediction

TTFT_WEIGHT = 3.0
"""Beside what the TTFT adds to the end-to-end latency."""
BROKEN_GOAL_MS = 10_000.0
"""Of each latency goal that the newcomer makes another request miss."""
COPY_WEIGHT = 200.0
"""Of the time to compute again the part of the prompt that some other unit holds."""
AS_WARM = 0.9
"""Who holds this share of the most that any unit does holds the same prefix."""


def total_delay_ms(prediction: Prediction) -> float:
    """What the newcomer waits and what the others wait longer because of it."""
    own_ms = prediction.comparable_e2e_ms or prediction.e2e_ms
    others_ms = prediction.added_delay_others_ms + BROKEN_GOAL_MS * prediction.num_slo_broken
    return own_ms + TTFT_WEIGHT * prediction.ttft_ms + others_ms


def choose(
    request: RoutedRequest, candidates: Sequence[Candidate], turn: int, rng: random.Random
) -> Choice:
    """The unit of least total delay, copies of prefixes priced."""
    most = max(c.num_cached_tokens for c in candidates)
    num_holders = sum(c.num_cached_tokens >= AS_WARM * most for c in candidates)

    def copy_price_ms(candidate: Candidate) -> float:
        copied_s = (most - candidate.num_cached_tokens) / candidate.prefill_tokens_per_s
        return COPY_WEIGHT * 1e3 * copied_s / num_holders

    return choose_least(request, candidates, turn, rng, total_delay_ms, copy_price_ms)
