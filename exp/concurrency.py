"""Closed loops: how an engine does with so many requests at a time, and which number is best."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import aiohttp
import numpy as np

from exp.workloads.errors import TargetError
from exp.workloads.request_bodies import request_body
from exp.workloads.streams import Answered, send
from exp.workloads.trace import TracedRequest

LEVELS_BEYOND_KNEE = 2
"""Of less power than the best one: they end the search."""
SPREAD = 0.25
"""Answers are up to so much shorter or longer, so that they do not all end at once."""
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent again and again."""

    num_prompt_tokens: int
    num_output_tokens: int
    """On average."""
    seconds: float
    """How long a level is measured, once every place has had its first answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What one concurrency gave. Latencies are in milliseconds."""

    concurrency: int
    requests: int
    output_tokens_per_s: float
    ttft_ms_mean: float
    ttft_ms_p90: float
    tpot_ms_mean: float
    tpot_ms_p90: float
    e2e_ms_mean: float

    @property
    def power(self) -> float:
        """Throughput over response time; where it is highest is the knee (Kleinrock 1979)."""
        return self.output_tokens_per_s / self.e2e_ms_mean


async def measure(url: str, model: str, concurrency: int, load: Load) -> Level:
    """Keep so many requests running until enough is seen, and let the last ones end.

    Raises:
        TargetError: a request failed.
    """
    rng = random.Random(uuid.uuid4().hex)  # prompts that no prefix cache holds
    answers: list[Answered] = []
    places_left = concurrency
    from_s = until_s = float("inf")

    async def keep_one_running(session: aiohttp.ClientSession) -> None:
        nonlocal places_left, from_s, until_s
        is_first = True
        while time.perf_counter() < until_s:
            answers.append(await _answer(session, url, model, load, rng))
            places_left -= is_first
            if is_first and places_left == 0:
                from_s = time.perf_counter()
                until_s = from_s + load.seconds
            is_first = False

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        places = [asyncio.ensure_future(keep_one_running(session)) for _ in range(concurrency)]
        try:
            await asyncio.gather(*places)
        finally:
            for place in places:
                place.cancel()
            await asyncio.gather(*places, return_exceptions=True)
    return _level(concurrency, answers, from_s, until_s)


async def _answer(
    session: aiohttp.ClientSession, url: str, model: str, load: Load, rng: random.Random
) -> Answered:
    request = TracedRequest(
        at_s=0.0,
        request_class="short",
        max_tokens=max(2, round(load.num_output_tokens * rng.uniform(1 - SPREAD, 1 + SPREAD))),
        num_prompt_tokens=load.num_prompt_tokens,
        ignore_eos=True,
    )
    path, body = request_body(request, model, rng)
    answered = await send(session, url + path, body, {}, DEADLINE_S)
    if answered.outcome != "ok" or answered.tpot_ms is None:
        raise TargetError(f"{url}: a request failed: {answered.error or 'it brought no tokens'}")
    return answered


def _level(concurrency: int, answers: Sequence[Answered], from_s: float, until_s: float) -> Level:
    """Tokens are counted when they come; latencies are those of requests sent meanwhile."""
    num_tokens = sum(
        sum(from_s <= at_s < until_s for at_s in one.chunk_times_s)
        * one.num_output_tokens
        / len(one.chunk_times_s)
        for one in answers
    )
    # With answers longer than the measurement none may have been sent meanwhile.
    meanwhile = [one for one in answers if one.sent_s >= from_s] or list(answers)
    ttft_ms = [one.ttft_ms or 0.0 for one in meanwhile]
    tpot_ms = [one.tpot_ms or 0.0 for one in meanwhile]
    return Level(
        concurrency=concurrency,
        requests=len(meanwhile),
        output_tokens_per_s=round(num_tokens / (until_s - from_s), 2),
        ttft_ms_mean=round(float(np.mean(ttft_ms)), 3),
        ttft_ms_p90=round(float(np.percentile(ttft_ms, 90)), 3),
        tpot_ms_mean=round(float(np.mean(tpot_ms)), 3),
        tpot_ms_p90=round(float(np.percentile(tpot_ms, 90)), 3),
        e2e_ms_mean=round(float(np.mean([one.e2e_ms for one in meanwhile])), 3),
    )


def is_enough(levels: Sequence[Level], tpot_goal_ms: float | None) -> bool:
    """Whether a higher concurrency cannot be the best one."""
    if tpot_goal_ms is not None:
        return levels[-1].tpot_ms_p90 > tpot_goal_ms
    best = max(range(len(levels)), key=lambda index: levels[index].power)
    return best < len(levels) - LEVELS_BEYOND_KNEE


def best_level(levels: Sequence[Level], tpot_goal_ms: float | None) -> Level | None:
    """The largest that keeps the goal, or else the knee; None if none keeps the goal."""
    if tpot_goal_ms is not None:
        good = [one for one in levels if one.tpot_ms_p90 <= tpot_goal_ms]
        return max(good, key=lambda one: one.concurrency, default=None)
    return max(levels, key=lambda one: one.power)
