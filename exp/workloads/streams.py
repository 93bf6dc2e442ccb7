"""One request to an OpenAI endpoint, streamed or whole, and what came of it.

Works on bytes with aiohttp: at hundreds of tokens a second the official client takes a core that
the servers on the same machine need.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import aiohttp
import msgspec

Outcome = Literal["ok", "rejected", "failed", "lost"]
"""``rejected``: 429. ``failed``: another error. ``lost``: no answer, or one that breaks off."""
TOO_MANY_REQUESTS = 429
LONGEST_ERROR = 300


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Error(msgspec.Struct):
    message: str
    type: str


class _Event(msgspec.Struct):
    """A chunk of a stream, or a whole answer; ``error`` stands alone."""

    choices: list[msgspec.Raw] = []
    usage: _Usage | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Event)


@dataclass(slots=True, kw_only=True)
class Answered:
    """What came of one request. Times are those of ``time.perf_counter``, in seconds."""

    sent_s: float
    ended_s: float = 0.0
    outcome: Outcome = "lost"
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    """Of the answer; found by name in any case."""
    error: str | None = None
    is_openai_error: bool = False
    """The error came in OpenAI's JSON."""
    chunk_times_s: list[float] = field(default_factory=list)
    """Of the chunks with text."""
    num_prompt_tokens: int = 0
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    """Of the prompt, where the engine tells."""

    @property
    def unit(self) -> str | None:
        """As the gateway names it."""
        return self.headers.get("x-astrolabe-unit")

    @property
    def ttft_ms(self) -> float | None:
        """Time to first token; None if there was none."""
        return (self.chunk_times_s[0] - self.sent_s) * 1e3 if self.chunk_times_s else None

    @property
    def e2e_ms(self) -> float:
        """Until the last token, as vLLM's benchmark has it."""
        return ((self.chunk_times_s or [self.ended_s])[-1] - self.sent_s) * 1e3

    @property
    def tpot_ms(self) -> float | None:
        """Time per output token after the first; None for fewer than two tokens."""
        if self.num_output_tokens < 2 or not self.chunk_times_s:
            return None
        spent_s = self.chunk_times_s[-1] - self.chunk_times_s[0]
        return spent_s * 1e3 / (self.num_output_tokens - 1)

    @property
    def itl_ms(self) -> list[float]:
        """Gaps between chunks."""
        return [(after - before) * 1e3 for before, after in pairwise(self.chunk_times_s)]


async def send(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    deadline_s: float,
) -> Answered:
    """Send a JSON body and read the answer to its end. What goes wrong is in the result."""
    answered = Answered(sent_s=time.perf_counter())
    timeout = aiohttp.ClientTimeout(total=deadline_s)
    try:
        async with session.post(
            url, data=body, headers={"content-type": "application/json", **headers}, timeout=timeout
        ) as response:
            answered.status = response.status
            answered.headers = response.headers
            if response.status != 200:
                _note_refusal(answered, await response.read())
            elif response.content_type == "text/event-stream":
                await _read_stream(answered, response)
            else:
                _note_whole(answered, await response.read())
    except asyncio.TimeoutError:
        _note_loss(answered, f"no end within {deadline_s:g} s")
    except aiohttp.ClientError as error:
        _note_loss(answered, f"{type(error).__name__}: {error}")
    answered.ended_s = time.perf_counter()
    return answered


def _note_loss(answered: Answered, error: str) -> None:
    answered.outcome, answered.error = "lost", error


def _note_refusal(answered: Answered, body: bytes) -> None:
    answered.outcome = "rejected" if answered.status == TOO_MANY_REQUESTS else "failed"
    answered.error = f"HTTP {answered.status}: "
    try:
        error = _decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        error = None
    answered.is_openai_error = error is not None
    told = error.message if error else f"not OpenAI's error JSON: {body[:80]!r}"
    answered.error += told[:LONGEST_ERROR]


def _note_whole(answered: Answered, body: bytes) -> None:
    answered.chunk_times_s.append(time.perf_counter())
    try:
        _note(answered, _decoder.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        _note_loss(answered, f"the answer is not JSON: {error}")
        return
    answered.outcome = "ok"


async def _read_stream(answered: Answered, response: aiohttp.ClientResponse) -> None:
    is_done = False
    async for data in _events(response):
        if data == b"[DONE]":
            is_done = True
            continue
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            _note_loss(answered, f"an event is not JSON: {error}")
            return
        if event.choices:
            answered.chunk_times_s.append(time.perf_counter())
        _note(answered, event)
    if answered.error is not None:
        answered.outcome = "failed"
    elif is_done:
        answered.outcome = "ok"
    else:
        _note_loss(answered, "the stream broke off")


def _note(answered: Answered, event: _Event) -> None:
    if event.error is not None:
        answered.error, answered.is_openai_error = event.error.message[:LONGEST_ERROR], True
    if event.usage is not None:
        answered.num_prompt_tokens = event.usage.prompt_tokens
        answered.num_output_tokens = event.usage.completion_tokens
        details = event.usage.prompt_tokens_details
        answered.num_cached_tokens = (details and details.cached_tokens) or 0


async def _events(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events. vLLM and Astrolabe send one line for each."""
    rest = b""
    async for piece in response.content.iter_any():
        *events, rest = (rest + piece).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                yield event[6:]
