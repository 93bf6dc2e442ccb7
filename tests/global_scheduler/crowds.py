"""A gateway whose engines answer only at the end of a test, and sidecars that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec
from starlette.types import Receive, Scope, Send

from tests.global_scheduler.fleet import (
    COMPLETION,
    Broken,
    Fleet,
    ScriptedEngine,
    fleet,
    reply,
    worked_off,
)
from wire.prediction import BacklogRequest

LONG = "long " * 2_000
REAL_WAIT_S = 120.0


@dataclass
class Crowd:
    """A fleet whose engines answer only at the end, and what was sent to it."""

    fleet: Fleet
    tasks: list[asyncio.Task[httpx.Response]] = field(default_factory=list)

    def send(self, count: int, prompt: str) -> None:
        """Requests whose answers nobody waits for yet."""
        for _ in range(count):
            self.tasks.append(asyncio.ensure_future(self.fleet.complete(prompt=prompt)))

    async def pools(self) -> dict[str, Any]:
        """What the admin API shows."""
        shown: dict[str, Any] = (await self.fleet.client.get("/admin/pools")).json()
        return shown

    async def change(self, path: str = "", **body: Any) -> httpx.Response:
        """Something, through the admin API."""
        return await self.fleet.client.put(f"/admin/pools{path}", json=body)

    async def has_moved(self) -> bool:
        """Whether any unit has."""
        return bool((await self.pools())["moves"])

    async def by_pool(self) -> dict[str, str | None]:
        """Each unit's pool."""
        return {unit["name"]: unit["pool"] for unit in (await self.pools())["units"]}


@asynccontextmanager
async def crowd(*engines: ScriptedEngine, **settings: Any) -> AsyncIterator[Crowd]:
    """Every request is answered in the end, or the test fails."""
    gate = asyncio.Event()

    async def behave(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await asyncio.wait_for(gate.wait(), REAL_WAIT_S)
        await reply(send, 200, COMPLETION)

    for engine in engines:
        engine.behave = behave
    defaults = {
        "control_interval_s": 0.05,
        "pools": "predictive",
        "worker_concurrency_limit": 1,
    }
    async with fleet(*engines, **(defaults | settings)) as running:
        made = Crowd(running)
        try:
            yield made
        finally:
            gate.set()
            answers = await asyncio.gather(*made.tasks)
        assert {answer.status_code for answer in answers} <= {200}


async def is_waiting(made: Crowd, request_class: str, count: int) -> bool:
    """Whether so many of a class wait."""
    return bool((await made.pools())["queues"][request_class]["length"] == count)


async def is_active(made: Crowd, unit: str, count: int) -> bool:
    """Whether a unit runs so many."""
    units = (await made.pools())["units"]
    return any(one["name"] == unit and one["active"] == count for one in units)


async def metric_is(made: Crowd, line: str, least: float) -> bool:
    """Whether a metric has come so far."""
    return await made.fleet.metric(line) >= least


async def hang(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Slow."""
    await asyncio.sleep(1.0)
    await reply(send, 200, b"{}")


async def die(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """The connection breaks off."""
    raise Broken


async def overloaded(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """As a sidecar that has too much to do."""
    await reply(send, 503, b"{}")


async def flood(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """More than anybody should read."""
    await reply(send, 200, b" " * (2 << 20))


async def nan(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Latencies that cannot be."""
    answer = msgspec.json.encode(worked_off(msgspec.json.decode(body, type=BacklogRequest)))
    await reply(send, 200, answer.replace(b'"ttft_ms":', b'"ttft_ms":-'))


async def too_few(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Answers to other questions."""
    await reply(send, 200, msgspec.json.encode(worked_off(BacklogRequest(requests=[]))))
