"""Carrying one engine's answer to its client, unchanged, and noting what it shows on the way."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from global_scheduler.engine_http import BrokenOff, RawHeaders, Response
from global_scheduler.errors import UpstreamFailed
from global_scheduler.exchange import Exchange
from global_scheduler.upstream import UnitFailed, returned_headers
from global_scheduler.usage import TokenCounts, counts_of_body, counts_of_stream

STREAM_ERROR = b'data: {"error"'
"""How vLLM tells of a failure when it has already sent a 200; no text of an answer looks so."""
STREAM_END = b"data: [DONE]\n\n"
LARGEST_WHOLE_ANSWER_BYTES = 64 << 20
"""An unstreamed answer is held in memory; no engine's is nearly as large."""


class Relayed(msgspec.Struct, frozen=True):
    """What an answer showed. ``counts`` is None for answers that are no complete generations."""

    status: int
    first_token_at_s: float | None
    counts: TokenCounts | None


async def relay_whole(response: Response, exchange: Exchange, headers: RawHeaders) -> Relayed:
    """Read an unstreamed answer and send it on.

    Raises:
        UnitFailed: the answer broke off; nothing has been sent.
    """
    try:
        body = await _read_bounded(response)
    except BrokenOff as error:
        raise UnitFailed(f"the answer broke off: {error}") from error
    await exchange.answer(response.status, returned_headers(response) + headers, body)
    return Relayed(response.status, None, counts_of_body(body) if response.status == 200 else None)


async def _read_bounded(response: Response) -> bytes:
    chunks, size = [], 0
    while chunk := await response.read_some():
        chunks.append(chunk)
        size += len(chunk)
        if size > LARGEST_WHOLE_ANSWER_BYTES:
            raise UnitFailed(f"the answer exceeds {LARGEST_WHOLE_ANSWER_BYTES} bytes")
    return b"".join(chunks)


async def relay_stream(
    response: Response,
    exchange: Exchange,
    headers: RawHeaders,
    *,
    may_retry: bool,
    clock: Callable[[], float],
    on_tokens: Callable[[int], None],
) -> Relayed:
    """Send a streamed answer on, chunk by chunk; the head leaves with the first chunk.

    ``on_tokens`` is told the tokens so far, a token for each event, as engines send them.

    Raises:
        UnitFailed: nothing has been sent and the stream failed.
        UpstreamFailed: the stream broke off after its first byte.
    """
    chunk = await _first_chunk(response)
    if may_retry and chunk.startswith(STREAM_ERROR):
        raise UnitFailed(f"the stream began with an error: {chunk[:200]!r}")
    first_token_at_s = clock()
    on_tokens(1)
    await exchange.start(response.status, returned_headers(response) + headers)
    before, last, num_events = b"", b"", 0
    try:
        while chunk:
            # Clients may hang up as soon as they have this, before the stream's own end.
            exchange.complete = chunk.endswith(STREAM_END)
            await exchange.send(chunk)
            num_events += chunk.count(b"data: {")
            on_tokens(num_events)
            before, last = last, chunk
            chunk = await response.read_some()
    except BrokenOff as error:
        raise UpstreamFailed(
            f"the unit failed while it answered: {error}",
            code="stream_interrupted",
        ) from error
    await exchange.finish()
    tail = before + last
    counts = None if STREAM_ERROR in tail else counts_of_stream(tail, num_events)
    return Relayed(response.status, first_token_at_s, counts)


async def _first_chunk(response: Response) -> bytes:
    try:
        return await response.read_some()
    except BrokenOff as error:
        raise UnitFailed(f"the answer broke off before its first byte: {error}") from error
