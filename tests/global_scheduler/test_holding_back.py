"""Requests wait in the gateway rather than in engines that are predicted to let them queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import (
    Behaviour,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    predicting,
)
from tests.global_scheduler.test_late_binding import Gate

pytestmark = pytest.mark.anyio


def queueing(queue_ms: float) -> Behaviour:
    """A sidecar that predicts this much waiting, whatever is asked."""
    return predicting(queue_ms=queue_ms, ttft_ms=queue_ms + 20.0, e2e_ms=queue_ms + 100.0)


@asynccontextmanager
async def busy_unit(
    queue_ms: float, *others: ScriptedEngine, **settings: Any
) -> AsyncIterator[tuple[Fleet, Gate, ScriptedEngine]]:
    """Unit u0 has one request and predicts this much waiting for the next one."""
    gate = Gate()
    engine = ScriptedEngine(behave=gate, answer_questions=queueing(0.0))
    async with fleet(engine, *others, **settings) as running:
        others_answers = [one.answer_questions for one in others]
        for one in others:
            one.answer_questions = queueing(60_000.0)
        first = asyncio.ensure_future(running.complete())
        await eventually(lambda: _has_started(gate, 1))
        engine.answer_questions = queueing(queue_ms)
        for one, answers in zip(others, others_answers, strict=True):
            one.answer_questions = answers
        yield running, gate, engine
        gate.open.set()
        await first


async def _has_started(gate: Gate, count: int) -> bool:
    return len(gate.started) >= count


async def _is_held(running: Fleet, count: int = 1) -> bool:
    return await running.metric('astrolabe_queue_requests{class="short"} ') == count


async def _answer(sent: asyncio.Future[httpx.Response]) -> httpx.Response:
    return await asyncio.wait_for(sent, timeout=60.0)


async def test_a_request_waits_until_its_engine_would_take_it_soon() -> None:
    """It is not sent while it would only queue, and goes when that is predicted to be over."""
    async with busy_unit(3_000.0, hold_above_ms=500) as (running, gate, engine):
        sent = asyncio.ensure_future(running.complete())
        await eventually(lambda: _is_held(running))
        await asyncio.sleep(0.3)
        assert len(gate.started) == 1
        engine.answer_questions = queueing(400.0)
        await eventually(lambda: _has_started(gate, 2))
        gate.open.set()
        answer = await _answer(sent)
        assert answer.status_code == 200
        assert float(answer.headers["x-astrolabe-waited-ms"]) > 300


async def test_a_free_unit_takes_a_request_whatever_is_predicted() -> None:
    """Nobody is held back by a forecast while a unit has nothing to do."""
    async with busy_unit(60_000.0, hold_above_ms=0) as (running, gate, _):
        sent = asyncio.ensure_future(running.complete())
        await eventually(lambda: _is_held(running))
        gate.open.set()
        assert (await _answer(sent)).status_code == 200


async def test_a_held_request_goes_where_room_is() -> None:
    """One full unit holds nobody back while another has room."""
    other = ScriptedEngine(answer_questions=queueing(0.0))
    async with busy_unit(3_000.0, other, hold_above_ms=500) as (running, _, _engine):
        answer = await running.complete()
        assert answer.headers["x-astrolabe-unit"] == "u1"


@pytest.mark.parametrize("settings", [{"hold_above_ms": "never"}, {"policy": "round_robin"}])
async def test_who_does_not_hold_back_sends_at_once(settings: dict[str, Any]) -> None:
    """Neither with ``never`` nor without forecasts."""
    async with busy_unit(60_000.0, **settings) as (running, gate, _):
        sent = asyncio.ensure_future(running.complete())
        await eventually(lambda: _has_started(gate, 2))
        gate.open.set()
        assert (await _answer(sent)).status_code == 200


async def test_lying_sidecars_hold_nobody_for_good() -> None:
    """Where all predict an hour, each unit still serves one request after the other."""
    engines = [ScriptedEngine(answer_questions=queueing(3_600_000.0)) for _ in range(2)]
    async with fleet(*engines, hold_above_ms=100) as running:
        answers = await asyncio.wait_for(
            asyncio.gather(*(running.complete() for _ in range(20))), timeout=60.0
        )
        assert [answer.status_code for answer in answers] == [200] * 20
        assert min(len(engine.requests) for engine in engines) >= 5


async def test_the_bound_is_switched_at_run_time() -> None:
    """``/admin/policy`` shows and changes it; nonsense is refused by name."""
    async with busy_unit(60_000.0) as (running, gate, _):
        shown = (await running.client.get("/admin/policy")).json()
        assert shown["hold_above_ms"] == 6_000.0
        sent = asyncio.ensure_future(running.complete())
        await eventually(lambda: _is_held(running))
        answer = await running.client.put("/admin/policy", json={"hold_above_ms": "never"})
        assert answer.json()["hold_above_ms"] == "never"
        await eventually(lambda: _has_started(gate, 2))
        gate.open.set()
        assert (await _answer(sent)).status_code == 200
        refused = await running.client.put("/admin/policy", json={"hold_above_ms": -1})
        assert refused.status_code == 400
        assert "hold_above_ms" in refused.text
    with pytest.raises(ValidationError, match="hold_above_ms"):
        GatewaySettings(hold_above_ms="soon")  # type: ignore[arg-type]


async def test_those_behind_a_held_request_wait_their_turn() -> None:
    """Requests that come later do not overtake it, and all are answered."""
    async with busy_unit(60_000.0, hold_above_ms=500) as (running, gate, engine):
        sent = []
        for name in ("a", "b", "c"):
            headers = {"x-request-id": name}
            sent.append(asyncio.ensure_future(running.complete(headers=headers)))
            await eventually(partial(_is_held, running, len(sent)))
        engine.answer_questions = queueing(0.0)
        gate.open.set()
        for one in sent:
            assert (await _answer(one)).status_code == 200
        order = [decision["request_id"] for decision in await running.decisions()]
        assert order[-3:] == ["a", "b", "c"]
