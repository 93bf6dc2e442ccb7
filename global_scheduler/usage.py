"""Token counts of an answer: from its usage object, else from the number of its events."""

from __future__ import annotations

import msgspec


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _WithUsage(msgspec.Struct):
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_WithUsage)


class TokenCounts(msgspec.Struct, frozen=True):
    """What an answer cost. ``num_prompt_tokens`` is None where the engine did not say."""

    num_prompt_tokens: int | None
    num_output_tokens: int


def counts_of_body(body: bytes) -> TokenCounts | None:
    """The usage of a complete, unstreamed answer; None if there is none."""
    try:
        usage = _decoder.decode(body).usage
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if usage is None else TokenCounts(usage.prompt_tokens, usage.completion_tokens)


def counts_of_stream(tail: bytes, num_events: int) -> TokenCounts:
    """The usage event in the last bytes of a stream; without one, a token for each event.

    Args:
        tail: the end of the stream, at least its last two events.
        num_events: JSON events of the whole stream.
    """
    for event in reversed(tail.split(b"\n\n")):
        if event.startswith(b"data: {") and b'"usage":{' in event:
            counts = counts_of_body(event[len(b"data: ") :])
            if counts is not None:
                return counts
    # An engine's first chat event carries the role only, its last the finish reason.
    return TokenCounts(None, max(0, num_events - 1))
