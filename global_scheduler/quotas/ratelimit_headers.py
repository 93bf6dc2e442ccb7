"""The headers that tell a client of its quota, as OpenAI's API names and writes them."""

from __future__ import annotations

import math

from global_scheduler.engine_http import RawHeaders
from global_scheduler.quotas.window import Quota, Usage, reset_s


def ratelimit_headers(quota: Quota, usage: Usage) -> RawHeaders:
    """``x-ratelimit-{limit,remaining,reset}-{requests,tokens}``, for limits that there are."""
    figures = {
        "requests": (
            quota.requests_per_minute,
            usage.num_requests,
            reset_s(usage, of_tokens=False),
        ),
        "tokens": (quota.tokens_per_minute, usage.num_tokens, reset_s(usage, of_tokens=True)),
    }
    headers: RawHeaders = []
    for what, (limit, used, rest_s) in figures.items():
        if limit is not None:
            headers += [
                (f"x-ratelimit-limit-{what}".encode(), b"%d" % limit),
                (f"x-ratelimit-remaining-{what}".encode(), b"%d" % max(0, limit - used)),
                (f"x-ratelimit-reset-{what}".encode(), _duration(rest_s)),
            ]
    return headers


def _duration(seconds: float) -> bytes:
    """Whole seconds, rounded up: ``12s``, or ``1m5s`` from a minute on."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
