"""Requests that wait in the gateway until a unit has room, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import COMPLETION, Fleet, ScriptedEngine, eventually, fleet, reply

pytestmark = pytest.mark.anyio
REAL_WAIT_S = 60.0


@dataclass
class Gate:
    """An engine's behaviour that answers only when a test lets it."""

    open: asyncio.Event = field(default_factory=asyncio.Event)
    running: int = 0
    most: int = 0
    started: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        self.started.append(headers[b"x-request-id"].decode())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.wait_for(self.open.wait(), REAL_WAIT_S * 2)
            await reply(send, 200, COMPLETION)
        finally:
            self.running -= 1


@asynccontextmanager
async def full_unit(**settings: Any) -> AsyncIterator[tuple[Fleet, Gate, asyncio.Task[Any]]]:
    """A unit of one place that is taken, and the request that takes it."""
    gate = Gate()
    engine = ScriptedEngine(behave=gate)
    async with fleet(engine, worker_concurrency_limit=1, **settings) as running:
        first = asyncio.ensure_future(send(running, "first"))
        await eventually(lambda: _has_started(gate, 1))
        yield running, gate, first
        gate.open.set()
        await first


async def send(running: Fleet, name: str, **given: Any) -> httpx.Response:
    """A completion with an id of its own."""
    headers = {"x-request-id": name} | given.pop("headers", {})
    return await running.complete(headers=headers, **given)


async def _has_started(gate: Gate, count: int) -> bool:
    return len(gate.started) >= count


async def num_waiting(running: Fleet) -> float:
    """As the metrics have it."""
    return await running.metric('astrolabe_queue_requests{class="short"} ')


async def is_waiting(running: Fleet, count: int) -> bool:
    """Whether so many requests wait."""
    return await num_waiting(running) == count


async def test_no_unit_runs_more_than_its_limit() -> None:
    """What exceeds it waits, and all are answered."""
    gates = [Gate(), Gate()]
    for gate in gates:
        gate.open.set()
    engines = [ScriptedEngine(behave=gate) for gate in gates]
    async with fleet(*engines, worker_concurrency_limit=3, pools="none") as running:
        answers = await asyncio.gather(*(running.complete() for _ in range(60)))
        assert {answer.status_code for answer in answers} == {200}
        assert all(1 <= gate.most <= 3 for gate in gates)
        assert sum(len(gate.started) for gate in gates) == 60


async def test_the_wait_is_part_of_what_is_predicted_and_shown() -> None:
    """Predicted latencies count from the request's arrival."""
    async with full_unit() as (running, gate, _):
        second = asyncio.ensure_future(send(running, "second"))
        await eventually(lambda: is_waiting(running, 1))
        await asyncio.sleep(0.2)
        gate.open.set()
        answer = await second
        waited_ms = float(answer.headers["x-astrolabe-waited-ms"])
        assert waited_ms >= 200
        assert float(answer.headers["x-astrolabe-predicted-ttft-ms"]) >= waited_ms + 10
        decision = (await running.decisions())[-1]
        assert decision["waited_ms"] == pytest.approx(waited_ms, abs=0.001)
        assert "1 unit with room" in decision["reason"]
        assert await running.metric('astrolabe_queue_time_seconds_count{class="short"} ') == 2


async def test_a_full_queue_answers_429_with_a_reason() -> None:
    """And says when to come back."""
    async with full_unit(max_queued_requests=1) as (running, gate, _):
        second = asyncio.ensure_future(send(running, "second"))
        await eventually(lambda: is_waiting(running, 1))
        refused = await send(running, "third")
        assert refused.status_code == 429
        assert refused.headers["x-astrolabe-rejected"] == "queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        gate.open.set()
        assert (await second).status_code == 200
        rejected = 'astrolabe_rejected_requests_total{class="short",reason="queue_full"} '
        assert await running.metric(rejected) == 1


async def test_nobody_waits_for_ever() -> None:
    """Past the age limit the answer is a 429, and the unit is never asked."""
    async with full_unit(max_queue_age_s=0.3) as (running, gate, _):
        refused = await send(running, "second")
        assert refused.status_code == 429
        assert refused.headers["x-astrolabe-rejected"] == "queue_timeout"
        assert "0.3 s" in refused.json()["error"]["message"]
        assert gate.started == ["first"]


async def test_a_client_that_leaves_while_it_waits_takes_no_place() -> None:
    """Its request is forgotten; the next one goes."""
    async with full_unit() as (running, gate, _):
        second = asyncio.ensure_future(send(running, "second"))
        await eventually(lambda: is_waiting(running, 1))
        third = asyncio.ensure_future(send(running, "third"))
        await eventually(lambda: is_waiting(running, 2))
        second.cancel()
        await eventually(lambda: is_waiting(running, 1))
        gate.open.set()
        assert (await third).status_code == 200
        assert gate.started == ["first", "third"]


async def test_a_request_whose_unit_fails_returns_to_its_old_place() -> None:
    """It goes to the next unit with room, before those that came after it."""
    gate = Gate()

    async def fail(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await asyncio.wait_for(failing.wait(), REAL_WAIT_S)
        await reply(send, 500, b"{}")

    failing = asyncio.Event()
    bad = ScriptedEngine(behave=fail, predict=lambda batch: 1.0)
    good = ScriptedEngine(behave=gate, predict=lambda batch: 1000.0)
    async with fleet(bad, good, worker_concurrency_limit=1, pools="none") as running:
        unlucky = asyncio.ensure_future(send(running, "unlucky"))
        await eventually(lambda: _sent(running, 1))
        first = asyncio.ensure_future(send(running, "first"))
        await eventually(lambda: _has_started(gate, 1))
        later = asyncio.ensure_future(send(running, "later"))
        await eventually(lambda: is_waiting(running, 1))
        await running.client.post("/admin/units/u0/drain")
        failing.set()
        await eventually(lambda: is_waiting(running, 2))
        gate.open.set()
        answers = await asyncio.gather(unlucky, first, later)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert gate.started == ["first", "unlucky", "later"]


async def _sent(running: Fleet, count: int) -> bool:
    return len(await running.decisions()) >= count


async def test_waiting_for_units_that_have_gone_ends_with_a_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a while, in which one may come back."""
    monkeypatch.setattr("global_scheduler.late_binding.HOPELESS_AFTER_S", 0.5)
    async with full_unit() as (running, _, _first):
        second = asyncio.ensure_future(send(running, "second"))
        await eventually(lambda: is_waiting(running, 1))
        await running.client.post("/admin/units/u0/drain")
        answer = await second
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_unit"


async def test_the_order_of_the_queue_can_be_chosen() -> None:
    """Higher priority by the header goes first, whatever the body says; else the body counts."""
    async with full_unit(queue_order="priority") as (running, gate, _):
        waiting = []
        for number, (name, header, body) in enumerate(
            [("low", "-1", None), ("body", None, -5), ("header", "9", 5), ("none", None, None)]
        ):
            headers = {} if header is None else {"x-astrolabe-priority": header}
            fields = {} if body is None else {"priority": body}
            request = send(running, name, headers=headers, **fields)
            waiting.append(asyncio.ensure_future(request))
            await eventually(partial(is_waiting, running, number + 1))
        gate.open.set()
        await asyncio.gather(*waiting)
        assert gate.started == ["first", "header", "body", "none", "low"]


@pytest.mark.parametrize("value", ["high", "1.5", "", "9999999999"])
async def test_a_priority_that_is_no_number_is_refused(value: str) -> None:
    """With a message that names the header and the value."""
    async with fleet(ScriptedEngine()) as running:
        answer = await running.complete(headers={"x-astrolabe-priority": value})
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-astrolabe-priority"
        assert repr(value) in answer.json()["error"]["message"]


def test_the_limit_may_come_from_adasplits_environment_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None by default; our own name for it and the command line come before the bare one."""
    monkeypatch.delenv("WORKER_CONCURRENCY_LIMIT", raising=False)
    assert GatewaySettings().worker_concurrency_limit == "none"
    monkeypatch.setenv("WORKER_CONCURRENCY_LIMIT", "auto")
    assert GatewaySettings().worker_concurrency_limit == "auto"
    monkeypatch.setenv("ASTROLABE_GATEWAY_WORKER_CONCURRENCY_LIMIT", "12")
    assert GatewaySettings().worker_concurrency_limit == 12
    monkeypatch.delenv("ASTROLABE_GATEWAY_WORKER_CONCURRENCY_LIMIT")
    monkeypatch.setenv("WORKER_CONCURRENCY_LIMIT", "0")
    with pytest.raises(ValidationError, match="worker_concurrency_limit"):
        GatewaySettings()
