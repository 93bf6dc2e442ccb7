"""A real gateway whose standby units are real processes, or are asked for over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from global_scheduler.provisioning.local_process import LocalProcess
from global_scheduler.provisioning.standby import ProcessSpec
from tests.deploy.ports import free_ports
from tests.emulator.process import MODEL, TINY_MODEL
from tests.global_scheduler.fleet import (
    COMPLETION,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    prediction,
    reply,
    serving,
)
from wire.prediction import PredictBatchRequest, PredictBatchResponse

SLOW_MS, FAST_MS = 5_000.0, 10.0


def emulated(folder: Path) -> dict[str, Any]:
    """A standby unit whose engine is an emulator."""
    (folder / "model.json").write_text(json.dumps(TINY_MODEL))
    (port,) = free_ports(1)
    command = f"{sys.executable} -m exp.emulator --port {port} --model-config {folder}/model.json"
    return {
        "name": "s1",
        "engine_url": f"http://127.0.0.1:{port}",
        "provisioner": {
            "kind": "process",
            "commands": [f"{command} --engine-id standby-{port}"],
            "env": {"PYTHONPATH": "."},
        },
    }


def hook(engine_url: str, url: str) -> dict[str, Any]:
    """A standby unit that another service starts."""
    provisioner = {"kind": "webhook", "url": url, "timeout_s": 60}
    return {"name": "s1", "engine_url": engine_url, "provisioner": provisioner}


@asynccontextmanager
async def gateway(
    folder: Path, standby: dict[str, Any], *engines: ScriptedEngine, **settings: Any
) -> AsyncIterator[Fleet]:
    """A gateway that finds a request late above a second, and is quick to act."""
    path = folder / "standby.json"
    path.write_text(json.dumps({"units": [standby]}))
    defaults: dict[str, Any] = {
        "provisioning_latency": "e2e",
        "provisioning_limit_ms": 1_000,
        "provisioning_late_requests": 1,
        "provisioning_cooldown_s": 0,
        "provisioning_idle_s": 1,
        "provisioning_backoff_s": 2,
        "standby_units": path,
        "standby_dir": folder / "standby",
    }
    try:
        async with fleet(*engines, **(defaults | settings)) as running:
            yield running
    finally:  # such a gateway is broken off
        if standby["provisioner"]["kind"] == "process":
            spec = ProcessSpec.model_validate(standby["provisioner"])
            await LocalProcess("s1", spec, folder / "standby").stop()


class EngineTells:
    """A sidecar that predicts slow answers and tells what its engine can take."""

    def __init__(self, max_num_seqs: int) -> None:
        self.max_num_seqs = max_num_seqs

    async def __call__(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        batch = msgspec.json.decode(body, type=PredictBatchRequest)
        answers = [
            prediction(
                request_id=question.request_id, e2e_ms=SLOW_MS, max_num_seqs=self.max_num_seqs
            )
            for question in batch.requests
        ]
        await reply(send, 200, msgspec.json.encode(PredictBatchResponse(predictions=answers)))


async def state(running: Fleet) -> dict[str, Any]:
    """The standby unit, as the admin API shows it."""
    shown = (await running.client.get("/admin/provisioning")).json()
    unit: dict[str, Any] = shown["units"][0]
    return unit


def in_state(running: Fleet, wanted: str) -> Callable[[], Awaitable[bool]]:
    """Whether the standby unit has come so far."""

    async def check() -> bool:
        return bool((await state(running))["state"] == wanted)

    return check


def engine(predicted_ms: float) -> ScriptedEngine:
    """A configured unit that serves the emulator's model."""
    return ScriptedEngine(models=(MODEL,), predict=lambda batch: predicted_ms)


def test_a_process_joins_serves_and_leaves(tmp_path: Path) -> None:
    """A slow prediction starts it; it takes requests; when it is spare it is stopped."""

    async def run() -> None:
        slow = engine(SLOW_MS)
        async with gateway(tmp_path, emulated(tmp_path), slow) as running:
            assert (await running.complete(model=MODEL)).status_code == 200
            await eventually(in_state(running, "serving"))
            shown = (await running.client.get("/admin/units")).json()
            assert [(unit["name"], unit["healthy"]) for unit in shown] == [
                ("s1", True),
                ("u0", True),
            ]
            slow.healthy = False  # only the standby unit is left to answer
            await eventually(lambda: only_s1(running))
            answer = await running.complete(model=MODEL, max_tokens=5)
            assert answer.headers["x-astrolabe-unit"] == "s1"
            slow.healthy, slow.predict = True, lambda batch: FAST_MS
            await eventually(in_state(running, "off"))
            assert [u["name"] for u in (await running.client.get("/admin/units")).json()] == ["u0"]
            assert await running.metric('astrolabe_provisioning_actions_total{action="stop"} ') == 1
            assert not (tmp_path / "standby/s1.json").exists()
        assert (tmp_path / "standby/s1-1.log").exists()

    async def only_s1(running: Fleet) -> bool:
        return bool((await running.client.get("/health")).json()["healthy"] == 1)

    asyncio.run(run())


def test_the_end_of_the_gateway_stops_what_it_started(tmp_path: Path) -> None:
    """Unless told to keep it: then the next gateway finds it, uses it and stops it."""
    standby = tmp_path / "standby.json"
    standby.write_text(json.dumps({"units": [emulated(tmp_path)]}))
    record = tmp_path / "standby/s1.json"
    # Without any other unit it starts because fewer than the least take requests.
    options = ["--standby-units", str(standby), "--standby-dir", str(record.parent)]
    options += ["--provisioning-cooldown-s", "0"]

    async def run() -> None:
        async with gateway_process(*options, "--keep-standby-units", "true") as client:
            await eventually(lambda: is_up(client))
        assert record.exists()
        async with gateway_process(*options, "--provisioning", "off") as client:
            await eventually(lambda: is_up(client))
        assert not record.exists()
        async with gateway_process(*options, "--provisioning", "off") as client:
            await eventually(lambda: answers(client))
            assert not await is_up(client)

    asyncio.run(run())


@asynccontextmanager
async def gateway_process(*options: str) -> AsyncIterator[httpx.AsyncClient]:
    """A gateway as a process of its own, ended with TERM."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "global_scheduler", "--port", str(port)]
    command += ["--length-estimator", "none", *options]
    process = await asyncio.create_subprocess_exec(*command)
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client
    finally:
        process.terminate()
        await process.wait()


async def answers(client: httpx.AsyncClient) -> bool:
    """Whether the gateway is there."""
    try:
        return (await client.get("/health")).is_success
    except httpx.ConnectError:
        return False


async def is_up(client: httpx.AsyncClient) -> bool:
    """Whether the gateway has the standby unit at work."""
    if not await answers(client):
        return False
    shown = (await client.get("/admin/provisioning")).json()["units"]
    return [unit["state"] for unit in shown] == ["serving"]


def test_a_failing_provisioner_is_reported_and_not_hammered(tmp_path: Path) -> None:
    """Requests go on; state, error and metric tell; after the backoff it is tried again."""
    asked: list[tuple[float, str]] = []
    status = 500
    standby = ScriptedEngine(models=(MODEL,), healthy=False)

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            action = msgspec.json.decode((await receive())["body"])["action"]
            asked.append((time.monotonic(), action))
            standby.healthy = status == 200 and action == "start"
            await reply(send, status, b"quota used up")

    async def run() -> None:
        nonlocal status
        async with (
            serving(service) as url,
            serving(standby) as standby_url,
            gateway(tmp_path, hook(standby_url, url), engine(SLOW_MS)) as running,
        ):
            while not (shown := await state(running))["num_failures"]:
                assert (await running.complete(model=MODEL)).status_code == 200
            assert shown["state"] == "off"
            assert shown["last_error"] == f"{url}: status 500: quota used up"
            assert shown["retry_in_s"] > 0
            assert await running.metric('astrolabe_provisioning_failures_total{unit="s1"} ') >= 1
            for _ in range(10):
                assert (await running.complete(model=MODEL)).status_code == 200
            status = 200
            await eventually(in_state(running, "serving"))
        assert {action for _, action in asked} == {"start"}
        assert len(asked) >= 2
        assert all(later[0] - earlier[0] >= 2 for earlier, later in pairwise(asked))

    asyncio.run(run())


def test_reactive_waits_until_requests_have_been_late(tmp_path: Path) -> None:
    """Predictions alone start nothing; the mode can be switched while the gateway runs."""
    asked: list[str] = []

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            asked.append(msgspec.json.decode((await receive())["body"])["action"])
            await reply(send, 200, b"")

    async def slow(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await asyncio.sleep(1.2)
        await reply(send, 200, COMPLETION)

    async def is_asked() -> bool:
        return asked == ["start"]

    async def run() -> None:
        unit = engine(SLOW_MS)
        standby = hook("http://127.0.0.1:9", "")
        async with serving(service) as url:
            standby["provisioner"]["url"] = url
            async with gateway(tmp_path, standby, unit, provisioning="reactive") as running:
                await running.complete(model=MODEL)
                await asyncio.sleep(1.2)
                assert asked == []
                off = await running.client.put("/admin/provisioning", json={"mode": "off"})
                assert off.json()["mode"] == "off"
                unit.behave = slow
                await running.complete(model=MODEL)
                await asyncio.sleep(1.2)
                assert asked == []
                await running.client.put("/admin/provisioning", json={"mode": "reactive"})
                await eventually(in_state(running, "starting"))
                await eventually(is_asked)  # a moment after the state has changed

    asyncio.run(run())


def test_a_unit_is_not_spare_while_the_others_engines_are_full(tmp_path: Path) -> None:
    """No limit is set: what the other unit's engine can run at a time decides."""
    told = EngineTells(max_num_seqs=1)
    released = asyncio.Event()

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await receive()
            await reply(send, 200, b"")

    async def held(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await released.wait()
        await reply(send, 200, COMPLETION)

    async def run() -> None:
        unit = ScriptedEngine(models=(MODEL,), behave=held, answer_questions=told)
        async with (
            serving(service) as url,
            serving(ScriptedEngine(models=(MODEL,))) as other,
            gateway(tmp_path, hook(other, url), unit, provisioning_window_s=0.5) as running,
        ):
            request = asyncio.ensure_future(running.complete(model=MODEL))
            await eventually(in_state(running, "serving"), 20)
            for _ in range(30):  # three times as long as it takes to be spared
                assert (await state(running))["state"] == "serving"
                await asyncio.sleep(0.1)
            released.set()
            assert (await request).status_code == 200
            await eventually(in_state(running, "off"), 20)

    asyncio.run(run())


def test_what_waits_for_a_unit_counts_by_its_age(tmp_path: Path) -> None:
    """With all units full nothing is predicted for those that wait; their age starts a unit."""
    may_end = asyncio.Event()

    async def stuck(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await may_end.wait()
        await reply(send, 200, COMPLETION)

    async def run() -> None:
        unit = engine(FAST_MS)
        unit.behave = stuck
        standby = emulated(tmp_path)
        async with gateway(tmp_path, standby, unit, worker_concurrency_limit=1) as running:
            requests = [running.complete(model=MODEL, max_tokens=5) for _ in range(2)]
            first, second = asyncio.as_completed(requests)
            answer = await first
            assert (answer.status_code, answer.headers["x-astrolabe-unit"]) == (200, "s1")
            may_end.set()
            answer = await second
            assert (answer.status_code, answer.headers["x-astrolabe-unit"]) == (200, "u0")

    asyncio.run(run())


def test_bad_rules_are_refused(tmp_path: Path) -> None:
    """The admin API names the key and keeps what was."""

    async def run() -> None:
        standby = hook("http://127.0.0.1:9", "http://127.0.0.1:9")
        async with gateway(tmp_path, standby, engine(FAST_MS)) as running:
            for body, key in [
                ({"mode": "sometimes"}, "mode"),
                ({"max_units": 0}, "max_units"),
                ({"idle": 3}, "idle"),
            ]:
                answer = await running.client.put("/admin/provisioning", json=body)
                assert answer.status_code in (400, 422)
                assert key in answer.json()["error"]["message"]
            assert (await running.client.get("/admin/provisioning")).json()["max_units"] is None
            for wanted in (4, None):
                answer = await running.client.put("/admin/provisioning", json={"max_units": wanted})
                assert answer.json()["max_units"] == wanted

    asyncio.run(run())
