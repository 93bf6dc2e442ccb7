"""How much output to expect of a sequence that is under way."""

from __future__ import annotations

import itertools

OUTGROWN_SHARE = 0.5
"""A sequence that has outgrown its estimate is expected to grow by this share of what it has."""


def remaining_tokens(estimate: float, num_generated: int, max_tokens: int) -> int:
    """Output tokens still to come: at least 1, and never beyond ``max_tokens`` in all.

    Up to its estimate a sequence is expected to end there. Beyond, the longer it already is, the
    longer it will go on (as in heavy-tailed lengths): by half of what it has generated.
    """
    expected = estimate - num_generated
    if expected <= 0:
        expected = OUTGROWN_SHARE * num_generated
    return max(1, min(round(expected), max_tokens - num_generated))


def mean_of_quantiles(quantiles: dict[float, float]) -> float:
    """The mean of a length distribution given by quantiles (probability to tokens).

    The integral from 0 to 1 of the quantile function, taken as linear between the given
    probabilities and constant outside them. So the tails beyond the outermost quantiles are cut.
    """
    points = sorted(quantiles.items())
    first, last = points[0], points[-1]
    total = first[0] * first[1] + (1 - last[0]) * last[1]
    for (p0, tokens0), (p1, tokens1) in itertools.pairwise(points):
        total += (p1 - p0) * (tokens0 + tokens1) / 2
    return total
