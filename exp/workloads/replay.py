"""A trace sent to an OpenAI endpoint at its times, whether or not earlier requests have ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec

from exp.open_loop import as_they_end
from exp.workloads.errors import TargetError
from exp.workloads.streams import Answered, Outcome, send
from exp.workloads.trace import TracedRequest

FIRST_TOKEN_ID, LAST_TOKEN_ID = 1_000, 30_000
"""Ordinary tokens in every vocabulary that is served."""
PROBE_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Latency goals of a class, in milliseconds; None asks for nothing."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a trace is sent, and how."""

    base_url: str
    """Such as ``http://127.0.0.1:8200``."""
    model: str
    api_key: str | None = None
    deadline_s: float = 600.0
    """For each request; what takes longer is lost."""
    time_scale: float = 1.0
    """Times of the trace are multiplied by it: 0.5 is twice the load."""
    goals: Mapping[str, Goals] = field(default_factory=dict)
    """By class, where the request itself names none. They are judged by, not sent."""


class Sent(msgspec.Struct, kw_only=True, frozen=True):
    """One request of a trace and what came of it. Times are in milliseconds."""

    index: int
    request_id: str
    request_class: str = msgspec.field(name="class")
    at_s: float
    """When it was to be sent."""
    late_ms: float
    """How much later it was."""
    outcome: Outcome
    status: int | None
    error: str | None
    unit: str | None
    num_prompt_tokens: int
    num_output_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float
    itl_ms: list[float]
    is_good: bool
    """Answered within its goals."""


async def replay(
    requests: Sequence[TracedRequest], target: Target, run_id: str
) -> AsyncIterator[Sent]:
    """Send all; yields each as it ends."""
    connector = aiohttp.TCPConnector(limit=0)
    loop = asyncio.get_running_loop()
    async with aiohttp.ClientSession(connector=connector) as session:
        started_s = loop.time()

        async def one(index: int) -> Sent:
            request = requests[index]
            due_s = started_s + request.at_s * target.time_scale
            path, body = request_body(request, target.model, random.Random(f"{run_id} {index}"))
            await asyncio.sleep(max(0.0, due_s - loop.time()))
            late_ms = (loop.time() - due_s) * 1e3
            request_id = f"{run_id}-{index:05d}"
            headers = _headers(request, target.api_key, request_id)
            answered = await send(session, target.base_url + path, body, headers, target.deadline_s)
            return _sent(index, request_id, request, late_ms, answered, target)

        async with aclosing(as_they_end([one(index) for index in range(len(requests))])) as ended:
            async for each in ended:
                yield each


def request_body(request: TracedRequest, model: str, rng: random.Random) -> tuple[str, bytes]:
    """The path and the body: a chat for a text, a completion for a number of token ids."""
    body: dict[str, Any] = {
        "model": model,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if request.ignore_eos:
        body["ignore_eos"] = True
    if request.user is not None:
        body["user"] = request.user
    if request.priority is not None:
        body["priority"] = request.priority
    if request.prompt is not None:
        body["messages"] = [{"role": "user", "content": request.prompt}]
        body["max_completion_tokens"] = request.max_tokens
        return "/v1/chat/completions", msgspec.json.encode(body)
    ids = range(FIRST_TOKEN_ID, LAST_TOKEN_ID)
    body["prompt"] = rng.choices(ids, k=request.num_prompt_tokens or 1)
    body["max_tokens"] = request.max_tokens
    return "/v1/completions", msgspec.json.encode(body)


def _headers(request: TracedRequest, api_key: str | None, request_id: str) -> dict[str, str]:
    given = {
        "authorization": f"Bearer {api_key}" if api_key else None,
        "x-session-id": request.session,
        "x-slo-ttft-ms": request.slo_ttft_ms,
        "x-slo-tpot-ms": request.slo_tpot_ms,
    }
    named = {name: str(value) for name, value in given.items() if value is not None}
    return {"x-request-id": request_id, **named}


def _sent(
    index: int,
    request_id: str,
    request: TracedRequest,
    late_ms: float,
    answered: Answered,
    target: Target,
) -> Sent:
    return Sent(
        index=index,
        request_id=request_id,
        request_class=request.request_class,
        at_s=request.at_s * target.time_scale,
        late_ms=round(late_ms, 3),
        outcome=answered.outcome,
        status=answered.status,
        error=answered.error,
        unit=answered.unit,
        num_prompt_tokens=answered.num_prompt_tokens,
        num_output_tokens=answered.num_output_tokens,
        ttft_ms=_rounded(answered.ttft_ms),
        tpot_ms=_rounded(answered.tpot_ms),
        e2e_ms=round(answered.e2e_ms, 3),
        itl_ms=[round(gap_ms, 2) for gap_ms in answered.itl_ms],
        is_good=_is_good(request, answered, target.goals.get(request.request_class, Goals())),
    )


def _is_good(request: TracedRequest, answered: Answered, goals: Goals) -> bool:
    """As in vLLM's benchmark, an answer of one token meets any TPOT goal."""
    ttft_goal_ms = request.slo_ttft_ms or goals.ttft_ms
    tpot_goal_ms = request.slo_tpot_ms or goals.tpot_ms
    return (
        answered.outcome == "ok"
        and (ttft_goal_ms is None or (answered.ttft_ms or 0.0) <= ttft_goal_ms)
        and (tpot_goal_ms is None or (answered.tpot_ms or 0.0) <= tpot_goal_ms)
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


async def served_model(base_url: str, api_key: str | None = None) -> str:
    """The first model that the endpoint serves.

    Raises:
        TargetError: it does not tell.
    """
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{base_url}/v1/models", raise_for_status=True) as response,
        ):
            model: str = (await response.json())["data"][0]["id"]
            return model
    except asyncio.TimeoutError as error:
        raise TargetError(f"{base_url} does not answer within {PROBE_TIMEOUT_S:g} s") from error
    except (aiohttp.ClientError, ValueError, LookupError, TypeError) as error:
        raise TargetError(f"{base_url} cannot be used: {error!r}") from error
