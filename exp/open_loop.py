"""Requests sent at given times through the gateway with the official OpenAI client, and timed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

import openai
from openai.types import CompletionUsage

from length_estimation.sharegpt import first_turns, packaged_file

LONGEST_PROMPT_CHARACTERS = 4_000
"""Prompts that fit a model with a window of 2,048 tokens, answer included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentPrompt:
    """One request and what became of it. Latencies are in milliseconds, as a client sees them;
    predictions are None where the gateway had none."""

    index: int
    request_id: str
    unit: str
    policy: str
    fallback: str | None
    num_prompt_tokens: int
    num_output_tokens: int
    predicted_ttft_ms: float | None
    predicted_e2e_ms: float | None
    observed_ttft_ms: float
    observed_e2e_ms: float
    error: str | None = None


Ended = TypeVar("Ended")
BeforeSending = Callable[[str], Awaitable[None]]
"""Awaited with the request's id just before it is sent."""


def sample_prompts(count: int, rng: random.Random) -> list[str]:
    """Real prompts of moderate length, drawn without replacement from ShareGPT's first ones."""
    pool: list[str] = []
    for turn in first_turns(packaged_file()):
        if 0 < len(turn.prompt.strip()) <= LONGEST_PROMPT_CHARACTERS:
            pool.append(turn.prompt)
        if len(pool) >= 10 * count:
            break
    return rng.sample(pool, min(count, len(pool)))


def poisson_arrivals_s(count: int, rate_per_s: float, rng: random.Random) -> list[float]:
    """Times from the start, the first one 0."""
    times, now_s = [], 0.0
    for _ in range(count):
        times.append(now_s)
        now_s += rng.expovariate(rate_per_s)
    return times


async def send_open_loop(
    client: openai.AsyncOpenAI,
    model: str,
    prompts: Sequence[str],
    arrivals_s: Sequence[float],
    *,
    max_tokens: int,
    run_id: str,
    before_sending: BeforeSending,
) -> AsyncIterator[SentPrompt]:
    """Send each prompt at its time, whether or not earlier ones have ended; yields as they end."""
    started_s = time.perf_counter()

    async def one(index: int) -> SentPrompt:
        await asyncio.sleep(max(0.0, started_s + arrivals_s[index] - time.perf_counter()))
        request_id = f"{run_id}-{index:05d}"
        await before_sending(request_id)
        return await _send(client, model, prompts[index], index, request_id, max_tokens)

    async with aclosing(as_they_end([one(index) for index in range(len(prompts))])) as ended:
        async for each in ended:
            yield each


async def as_they_end(
    requests: Sequence[Coroutine[Any, Any, Ended]],
) -> AsyncGenerator[Ended, None]:
    """Run all at once and give each result when it is there; leaving early ends the others."""
    tasks = [asyncio.ensure_future(one) for one in requests]
    try:
        for ended in asyncio.as_completed(tasks):
            yield await ended
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send(
    client: openai.AsyncOpenAI,
    model: str,
    prompt: str,
    index: int,
    request_id: str,
    max_tokens: int,
) -> SentPrompt:
    started_s = time.perf_counter()
    headers: dict[str, str] = {}
    usage: CompletionUsage | None = None
    first_s, error = 0.0, None
    try:
        raw = await client.chat.completions.with_raw_response.create(
            model=model,
            messages=[{"role": "user", "content": prompt}],
            max_completion_tokens=max_tokens,
            temperature=0.0,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-request-id": request_id},
        )
        headers = dict(raw.headers)
        async for chunk in raw.parse():
            first_s = first_s or time.perf_counter()
            usage = chunk.usage or usage
    except openai.OpenAIError as failure:
        error = str(failure) or type(failure).__name__
    ended_s = time.perf_counter()
    return SentPrompt(
        index=index,
        request_id=request_id,
        unit=headers.get("x-astrolabe-unit", "-"),
        policy=headers.get("x-astrolabe-policy", "-"),
        fallback=headers.get("x-astrolabe-fallback"),
        num_prompt_tokens=usage.prompt_tokens if usage else 0,
        num_output_tokens=usage.completion_tokens if usage else 0,
        predicted_ttft_ms=_number(headers, "x-astrolabe-predicted-ttft-ms"),
        predicted_e2e_ms=_number(headers, "x-astrolabe-predicted-e2e-ms"),
        observed_ttft_ms=((first_s or ended_s) - started_s) * 1e3,
        observed_e2e_ms=(ended_s - started_s) * 1e3,
        error=error,
    )


def _number(headers: dict[str, str], name: str) -> float | None:
    return float(headers[name]) if name in headers else None
