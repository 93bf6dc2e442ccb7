"""One attempt at an answer: ask an engine, carry what it says to the client."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec

from global_scheduler.engine_http import RawHeaders
from global_scheduler.exchange import Exchange
from global_scheduler.relay import Relayed, relay_stream, relay_whole
from global_scheduler.upstream import UnitFailed, Upstream


class Errand(msgspec.Struct, frozen=True):
    """What routing has decided: whom to ask, and what the answer says of it."""

    engine_url: str
    request_id: str
    headers: RawHeaders
    is_streamed: bool
    may_retry: bool
    """Whether another unit is there if this one fails before its first byte."""


OnTokens = Callable[[int], None]
"""Is told how many output tokens have come back so far."""
Carry = Callable[[Errand, OnTokens], Awaitable[Relayed]]
"""Runs one errand for one request.

Raises:
    UnitFailed: the unit failed, and nothing has been sent.
    UpstreamFailed: the answer broke off after its first byte.
"""


async def carry(
    upstream: Upstream, exchange: Exchange, body: bytes, errand: Errand, on_tokens: OnTokens
) -> Relayed:
    """Run an errand in this process; see ``Carry``."""
    headers = upstream.headers(exchange.scope["headers"], errand.request_id)
    opening = upstream.open(errand.engine_url, "POST", exchange.target, headers, body)
    async with await opening as response:
        if response.status >= 500 and errand.may_retry:
            raise UnitFailed(f"HTTP {response.status}")
        if not errand.is_streamed or response.status != 200:
            return await relay_whole(response, exchange, errand.headers)
        return await relay_stream(
            response,
            exchange,
            errand.headers,
            may_retry=errand.may_retry,
            clock=time.monotonic,
            on_tokens=on_tokens,
        )
