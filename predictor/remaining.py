"""How much output to expect of a sequence that is under way.

An output length L is known by quantiles: points (probability, tokens), rising in both. Between two
points the quantile function is a straight line, below the first one it comes from (0, 0), and
beyond the last one lengths fall off exponentially, with the scale that the last two points give.
A single expected number is the distribution that has all of its weight there. What is still to come
of a sequence is the conditional expectation E[L | L > generated] - generated, in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

OUTGROWN_SHARE = 0.6
"""Where a distribution ends (a single number does at once), a longer sequence is expected to go on
for this share of that end, as an exponential does whatever it has behind it. ShareGPT's lengths
(p50 262, p90 623, p99 934 tokens, mean about 300), read as described above, leave 0.85 of their
mean to come at the median, 0.6 at the 90th percentile and 0.45 at the 99th."""

Points = Sequence[tuple[float, float]]
"""(probability, tokens), rising in both."""


def length_points(quantiles: Mapping[str, float]) -> list[tuple[float, float]]:
    """The points of quantiles as they travel, ``{"0.5": 210.0, "0.9": 600.0}``."""
    return sorted([(float(probability), tokens) for probability, tokens in quantiles.items()])


def remaining_tokens(expected: float | Points, num_generated: int, max_tokens: int) -> int:
    """Output tokens still to come: at least 1, and never beyond ``max_tokens`` in all.

    ``expected`` is one number or the points of a distribution.
    """
    room = max_tokens - num_generated
    if isinstance(expected, (int, float)):
        left = expected - num_generated
        if left <= 0:
            left = _within(OUTGROWN_SHARE * expected, room)
    else:
        left = expected_remaining(expected, num_generated, max_tokens)
    remaining = round(left) if left < room else room
    return remaining if remaining > 1 else 1


def expected_remaining(points: Points, num_generated: float, max_tokens: float = math.inf) -> float:
    """E[min(L, max_tokens) | L > num_generated] - num_generated; 0 where there is no room.

    The integral of the survival function from ``num_generated`` to ``max_tokens``, divided by its
    value at the former; beyond the last point that of an exponential.
    """
    end, scale = points[-1][1], _tail_scale(points)
    if num_generated < end:
        area, survival = _beyond(points, num_generated, scale)
        if survival > 0.0:
            return max(0.0, (area - _beyond(points, max_tokens, scale)[0]) / survival)
    return _within(scale or OUTGROWN_SHARE * end, max_tokens - num_generated)


def mean_of_quantiles(quantiles: Mapping[float, float]) -> float:
    """The mean of a length distribution given by quantiles (probability to tokens)."""
    return expected_remaining(sorted(quantiles.items()), 0.0)


def quantile_at(points: Points, probability: float) -> float:
    """The length that is not exceeded with this probability; infinite at 1 if there is a tail."""
    p0, tokens0 = 0.0, 0.0
    for p1, tokens1 in points:
        if probability <= p1:
            if p1 <= p0:
                return tokens1
            return tokens0 + (tokens1 - tokens0) * (probability - p0) / (p1 - p0)
        p0, tokens0 = p1, tokens1
    scale = _tail_scale(points)
    if scale <= 0.0:
        return tokens0
    if probability >= 1.0:
        return math.inf
    return tokens0 + scale * math.log((1.0 - p0) / (1.0 - probability))


def _beyond(points: Points, tokens: float, scale: float) -> tuple[float, float]:
    """The integral of the survival function from ``tokens`` on, and its value there.

    Adds up trapezoids from the tail, whose scale is given, down to ``tokens``.
    """
    upper_p, upper = points[-1]
    upper_s = 1.0 - upper_p
    if tokens >= upper:
        survival = upper_s * math.exp((upper - tokens) / scale) if scale else 0.0
        return survival * scale, survival
    area = upper_s * scale
    for index in range(len(points) - 2, -2, -1):
        lower_p, lower = points[index] if index >= 0 else (0.0, 0.0)
        lower_s = 1.0 - lower_p
        if tokens >= lower:
            survival = upper_s + (lower_s - upper_s) * (upper - tokens) / (upper - lower)
            return area + (upper - tokens) * (survival + upper_s) / 2.0, survival
        area += (upper - lower) * (lower_s + upper_s) / 2.0
        upper, upper_s = lower, lower_s
    return area - tokens, 1.0  # below 0 nothing has ended


def _tail_scale(points: Points) -> float:
    """Of the exponential beyond the last point; 0 where the distribution ends there."""
    last_p, last = points[-1]
    before_p, before = points[-2] if len(points) > 1 else (0.0, 0.0)
    if not before_p < last_p < 1.0:
        return 0.0
    return (last - before) / math.log((1.0 - before_p) / (1.0 - last_p))


def _within(scale: float, room: float) -> float:
    """The mean of an exponential that is cut off at ``room``."""
    if scale <= 0.0 or room <= 0.0:
        return 0.0
    return -scale * math.expm1(-room / scale)
