"""Several workers are one gateway: they share limits, routing, quotas, metrics and decisions."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from benchmarks.processes import free_port
from tests.global_scheduler.fleet import (
    COMPLETION,
    DONE,
    EVENT,
    SSE_HEADERS,
    Broken,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
)

pytestmark = pytest.mark.anyio


async def _pids() -> list[int]:
    """Of this process's workers."""
    listing = await anyio.run_process(["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())])
    lines = listing.stdout.decode().splitlines()
    return [int(line.split()[0]) for line in lines if "workers.worker" in line]


async def _num_outstanding(running: Fleet) -> int:
    return sum(len(unit.outstanding) for unit in running.app.units.all())


async def test_a_limit_holds_for_all_workers_together() -> None:
    """Requests on many connections, which workers share out, meet one limit."""
    num_now, most = 0, 0

    async def counting(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        nonlocal num_now, most
        num_now += 1
        most = max(most, num_now)
        await anyio.sleep(0.02)
        num_now -= 1
        await reply(send, 200, COMPLETION)

    async with fleet(
        ScriptedEngine(behave=counting), workers=2, worker_concurrency_limit=2
    ) as running:
        answers = await asyncio.gather(*(running.complete() for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert most == 2
        assert len(await running.decisions()) == 20
        assert await running.metric('astrolabe_requests_total{status="200",unit="u0"}') == 20
        assert await running.metric("astrolabe_workers ") == 2


async def test_admin_changes_and_quotas_hold_for_all_workers(tmp_path: Path) -> None:
    """Whichever worker is asked, the one scheduler answers."""
    engines = ScriptedEngine(), ScriptedEngine()
    quotas = {"quota": ["default=4/-"], "quota_store": tmp_path / "quotas.sqlite"}
    async with fleet(*engines, workers=2, policy="round_robin", **quotas) as running:
        await running.client.put("/admin/policy", json={"policy": "least_outstanding"})
        answers = [await running.complete() for _ in range(6)]
        assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
        assert answers[0].headers["x-astrolabe-policy"] == "least_outstanding"
        assert answers[0].headers["x-ratelimit-remaining-requests"] == "3"
        assert answers[5].headers["x-astrolabe-rejected"] == "quota"
        assert await running.metric('astrolabe_requests_total{status="429",unit="none"}') == 2


async def test_failures_are_mended_or_told_as_in_one_process() -> None:
    """Before the first byte another unit takes over; after it the client gets an error event."""
    broken = ScriptedEngine(behave=stream_of(then=Broken()))
    other = ScriptedEngine(behave=stream_of(EVENT, EVENT, DONE))
    async with fleet(broken, other, workers=2, policy="round_robin") as running:
        for _ in range(2):
            answer = await running.complete(stream=True)
            assert answer.headers["x-astrolabe-unit"] == "u1"
            assert answer.content == EVENT + EVENT + DONE
        other.behave = stream_of(EVENT, then=Broken())
        answer = await running.complete(stream=True)
        assert b'"code":"stream_interrupted"' in answer.content
        assert answer.content.endswith(DONE)
        assert (await running.complete(prompt=None)).status_code == 400
        assert (await running.complete(model="other")).status_code == 404
        assert await _num_outstanding(running) == 0
        decisions = await running.decisions()
        assert [one["status"] for one in decisions if one["unit"] == "u1"] == [200, 200, 502]


async def test_a_client_that_leaves_gives_its_place_back() -> None:
    """The engine sees it, and so does the scheduler."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def endless(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    engine = ScriptedEngine(behave=endless)
    async with fleet(engine, workers=2, worker_concurrency_limit=1) as running:
        await running.client.get("/health")  # a worker is up and has this connection
        client = asyncio.ensure_future(running.complete(stream=True))
        with anyio.fail_after(60):
            await begun.wait()
            client.cancel()
            await left.wait()
        await eventually(lambda: _is_free(running))
        engine.behave = stream_of(EVENT, DONE)
        assert (await running.complete(stream=True)).status_code == 200
        assert [one["status"] for one in await running.decisions()] == [499, 200]


async def _is_free(running: Fleet) -> bool:
    return await _num_outstanding(running) == 0


async def test_a_worker_that_dies_is_replaced_and_its_requests_are_released() -> None:
    """Nothing of it stays in the ledger, and the other worker's clients notice nothing."""
    never = asyncio.Event()

    async def hold(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await never.wait()

    engine = ScriptedEngine(behave=hold)
    async with fleet(engine, workers=2, worker_concurrency_limit=4) as running:
        waiting = [asyncio.ensure_future(running.complete()) for _ in range(6)]
        await eventually(lambda: _has_outstanding(running, 4))
        killed = await _pids()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(answer, httpx.TransportError) for answer in answers)
        await eventually(lambda: _is_free(running))
        engine.behave = stream_of(EVENT, DONE)
        assert (await running.complete(stream=True)).status_code == 200
        assert await running.metric("astrolabe_worker_deaths_total") == 2
        assert set(killed).isdisjoint(await _pids())
        never.set()


async def _has_outstanding(running: Fleet, number: int) -> bool:
    return await _num_outstanding(running) == number


async def test_workers_end_with_their_scheduler() -> None:
    """Without it they could not decide; whoever watches the gateway starts it again."""
    port = free_port()
    command = [sys.executable, "-m", "global_scheduler", "--workers=2", f"--port={port}"]
    command += ["--unit=u0=http://127.0.0.1:9", "--length-estimator=none", "--log-level=error"]
    scheduler = await asyncio.create_subprocess_exec(*command)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            await eventually(lambda: _answers(client))
    finally:
        scheduler.kill()
        await scheduler.wait()
    await eventually(lambda: _refuses(port))


async def _answers(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/health")).status_code == 200
    except httpx.TransportError:
        return False


async def _refuses(port: int) -> bool:
    try:
        stream = await anyio.connect_tcp("127.0.0.1", port)
    except OSError:
        return True
    await stream.aclose()
    return False
