"""A trace sent to an OpenAI endpoint at its times, whether or not earlier requests have ended."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, field

import aiohttp
import msgspec

from exp.open_loop import as_they_end
from exp.workloads.errors import TargetError
from exp.workloads.request_bodies import request_body, request_headers
from exp.workloads.streams import Answered, Outcome, send
from exp.workloads.trace import TracedRequest

PROBE_TIMEOUT_S = 10.0
PREPARED_BEFORE_S = 1.0
"""Bodies are made so long before they are sent: not late, and not all in memory at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """Latency goals of a class, in milliseconds; None asks for nothing."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None


NO_GOALS = Goals()


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
    """Times of the trace are multiplied by it: 0.5 is twice the load, 0 all at once."""
    max_concurrency: int | None = None
    """Requests at a time; others wait here, and their latencies begin when they are sent."""
    are_chats: bool = True
    """Texts are sent as chats, else as completions."""
    goals: Mapping[str, Goals] = field(default_factory=dict)
    """By class, ``*`` for all others, where the request itself names none. They are judged by, not
    sent."""

    def goals_of(self, request_class: str) -> Goals:
        """Of a class."""
        return self.goals.get(request_class) or self.goals.get("*") or NO_GOALS


class Sent(msgspec.Struct, kw_only=True, frozen=True):
    """One request of a trace and what came of it. Times are in milliseconds."""

    index: int
    request_id: str
    request_class: str = msgspec.field(name="class")
    session: str = ""
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
    num_cached_tokens: int = 0
    ttft_ms: float | None
    tpot_ms: float | None
    e2e_ms: float
    itl_ms: list[float]
    is_good: bool
    """Answered within its goals."""
    waited_ms: float | None = None
    """What the gateway says of its queue, and what it predicted; None of other endpoints."""
    predicted_ttft_ms: float | None = None
    predicted_e2e_ms: float | None = None
    expected_output_tokens: float | None = None


async def send_all(
    requests: Sequence[TracedRequest],
    target: Target,
    run_id: str,
    on_end: Callable[[Sent], object] = lambda one: None,
) -> list[Sent]:
    """Send all and wait for all; in the order of the trace.

    Requests that give only a number of prompt tokens, or hashes of them, get the same ones under
    the same ``run_id``, and others under another one.
    """
    sent = []
    async for one in replay(requests, target, run_id):
        on_end(one)
        sent.append(one)
    return sorted(sent, key=lambda one: one.index)


async def replay(
    requests: Sequence[TracedRequest], target: Target, run_id: str
) -> AsyncIterator[Sent]:
    """Send all; yields each as it ends."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        sender = _Sender(session, target, run_id)
        sending = [sender.send(index, request) for index, request in enumerate(requests)]
        async with aclosing(as_they_end(sending)) as ended:
            async for each in ended:
                yield each


class _Sender:
    """Sends the requests of one run, which begins when it is made."""

    def __init__(self, session: aiohttp.ClientSession, target: Target, run_id: str) -> None:
        self._session = session
        self._target = target
        self._run_id = run_id
        self._salt = random.Random(run_id).getrandbits(63)
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._places: AbstractAsyncContextManager[object] = (
            asyncio.Semaphore(target.max_concurrency) if target.max_concurrency else nullcontext()
        )

    async def send(self, index: int, request: TracedRequest) -> Sent:
        target, request_id = self._target, f"{self._run_id}-{index:05d}"
        due_s = self._started_s + request.at_s * target.time_scale
        await self._sleep_until(due_s - PREPARED_BEFORE_S)
        rng = random.Random(f"{self._run_id} {index}")
        path, body = request_body(
            request, target.model, rng, are_chats=target.are_chats, salt=self._salt
        )
        headers = request_headers(request, target.api_key, request_id)
        await self._sleep_until(due_s)
        async with self._places:
            late_ms = (self._loop.time() - due_s) * 1e3
            answered = await send(
                self._session, target.base_url + path, body, headers, target.deadline_s
            )
        return _sent(index, request_id, request, late_ms, answered, target)

    async def _sleep_until(self, due_s: float) -> None:
        await asyncio.sleep(max(0.0, due_s - self._loop.time()))


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
        session=request.session or "",
        at_s=request.at_s * target.time_scale,
        late_ms=round(late_ms, 3),
        outcome=answered.outcome,
        status=answered.status,
        error=answered.error,
        unit=answered.unit,
        num_prompt_tokens=answered.num_prompt_tokens,
        num_output_tokens=answered.num_output_tokens,
        num_cached_tokens=answered.num_cached_tokens,
        ttft_ms=_rounded(answered.ttft_ms),
        tpot_ms=_rounded(answered.tpot_ms),
        e2e_ms=round(answered.e2e_ms, 3),
        itl_ms=[round(gap_ms, 2) for gap_ms in answered.itl_ms],
        is_good=_is_good(request, answered, target.goals_of(request.request_class)),
        waited_ms=_told(answered, "waited-ms"),
        predicted_ttft_ms=_told(answered, "predicted-ttft-ms"),
        predicted_e2e_ms=_told(answered, "predicted-e2e-ms"),
        expected_output_tokens=_told(answered, "predicted-output-tokens"),
    )


def _is_good(request: TracedRequest, answered: Answered, goals: Goals) -> bool:
    """As in vLLM's benchmark, an answer of one token meets any TPOT goal."""
    reached = (
        (answered.ttft_ms, request.slo_ttft_ms or goals.ttft_ms),
        (answered.tpot_ms, request.slo_tpot_ms or goals.tpot_ms),
        (answered.e2e_ms, goals.e2e_ms),
    )
    return answered.outcome == "ok" and all(
        goal_ms is None or (value_ms or 0.0) <= goal_ms for value_ms, goal_ms in reached
    )


def _told(answered: Answered, name: str) -> float | None:
    """A number that the gateway says in a header."""
    try:
        value = float(answered.headers.get(f"x-astrolabe-{name}", ""))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


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
