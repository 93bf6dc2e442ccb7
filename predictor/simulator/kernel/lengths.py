"""``predictor/remaining.py``, compiled: the same formulas over arrays of quantile points."""

from __future__ import annotations

import math

import numpy as np

from predictor.remaining import OUTGROWN_SHARE
from predictor.simulator.kernel.compiled import entry, inlined, seldom
from predictor.simulator.kernel.layout import Floats, Ints


@seldom
def remaining_tokens(
    expected: float, points: Floats, num_points: int, num_generated: int, max_tokens: int
) -> int:
    """Output tokens still to come; ``points`` (probability, tokens) where there are any."""
    room = float(max_tokens - num_generated)
    if num_points > 0:
        left = _expected_remaining(points, num_points, float(num_generated), float(max_tokens))
    else:
        left = expected - num_generated
        if left <= 0.0:
            left = _within(OUTGROWN_SHARE * expected, room)
    remaining = np.int64(np.rint(left)) if left < room else np.int64(room)
    return max(remaining, 1)


@entry
def over_lengths(
    points: Floats,
    marks: Ints,
    marked_s: Floats,
    first_token_s: float,
    tpot_s: float,
    max_tokens: int,
    decode_s: Floats,
) -> tuple[float, float, float, float]:
    """What an answer takes whose length is known by points, of which a run has timed each.

    ``marks`` are the points' different lengths, rising, and ``marked_s`` when each ended; beyond
    the last one a token takes ``tpot_s``. ``decode_s`` has room for the points.
    Returns (mean seconds after the first token, their p50, their p90, mean tokens): time grows with
    the length, so that its quantiles are those of the length.
    """
    size, mark = points.shape[0], 0
    for index in range(size):
        while marks[mark] < points[index, 1]:
            mark += 1
        decode_s[index, 0] = points[index, 0]
        decode_s[index, 1] = marked_s[mark] - first_token_s
    longest_s = decode_s[size - 1, 1] + (max_tokens - points[size - 1, 1]) * tpot_s
    return (
        _expected_remaining(decode_s, size, 0.0, longest_s),
        min(_quantile_at(decode_s, size, 0.5), longest_s),
        min(_quantile_at(decode_s, size, 0.9), longest_s),
        _expected_remaining(points, size, 0.0, float(max_tokens)),
    )


@seldom
def _expected_remaining(
    points: Floats, num_points: int, num_generated: float, max_tokens: float
) -> float:
    end, scale = points[num_points - 1, 1], _tail_scale(points, num_points)
    if num_generated < end:
        area, survival = _beyond(points, num_points, num_generated, scale)
        if survival > 0.0:
            beyond, _ = _beyond(points, num_points, max_tokens, scale)
            return max(0.0, (area - beyond) / survival)
    return _within(scale if scale > 0.0 else OUTGROWN_SHARE * end, max_tokens - num_generated)


@seldom
def _beyond(points: Floats, num_points: int, tokens: float, scale: float) -> tuple[float, float]:
    """The integral of the survival function from ``tokens`` on, and its value there."""
    upper_s, upper = 1.0 - points[num_points - 1, 0], points[num_points - 1, 1]
    if tokens >= upper:
        survival = upper_s * math.exp((upper - tokens) / scale) if scale > 0.0 else 0.0
        return survival * scale, survival
    area = upper_s * scale
    for index in range(num_points - 2, -2, -1):
        lower_s = 1.0 - points[index, 0] if index >= 0 else 1.0
        lower = points[index, 1] if index >= 0 else 0.0
        if tokens >= lower:
            survival = upper_s + (lower_s - upper_s) * (upper - tokens) / (upper - lower)
            return area + (upper - tokens) * (survival + upper_s) / 2.0, survival
        area += (upper - lower) * (lower_s + upper_s) / 2.0
        upper, upper_s = lower, lower_s
    return area - tokens, 1.0


@seldom
def _quantile_at(points: Floats, num_points: int, probability: float) -> float:
    p0, tokens0 = 0.0, 0.0
    for index in range(num_points):
        p1, tokens1 = points[index, 0], points[index, 1]
        if probability <= p1:
            if p1 <= p0:
                return tokens1
            return tokens0 + (tokens1 - tokens0) * (probability - p0) / (p1 - p0)
        p0, tokens0 = p1, tokens1
    scale = _tail_scale(points, num_points)
    if scale <= 0.0:
        return tokens0
    return tokens0 + scale * math.log((1.0 - p0) / (1.0 - probability))


@inlined
def _tail_scale(points: Floats, num_points: int) -> float:
    last_p, last = points[num_points - 1, 0], points[num_points - 1, 1]
    before_p, before = 0.0, 0.0
    if num_points > 1:
        before_p, before = points[num_points - 2, 0], points[num_points - 2, 1]
    if not before_p < last_p < 1.0:
        return 0.0
    return (last - before) / math.log((1.0 - before_p) / (1.0 - last_p))


@inlined
def _within(scale: float, room: float) -> float:
    """The mean of an exponential that is cut off at ``room``."""
    if scale <= 0.0 or room <= 0.0:
        return 0.0
    return -scale * math.expm1(-room / scale)
