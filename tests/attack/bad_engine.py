"""Engines over bare sockets, which answer as HTTP allows, or does not."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tests.global_scheduler.fleet import Fleet, ScriptedEngine, fleet

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
MODELS = b'{"data":[{"id":"m","object":"model"}]}'


class Call(msgspec.Struct):
    """A request that has reached an engine; ``turn`` counts those on its connection from 0."""

    path: str
    headers: list[tuple[str, str]]
    body: bytes
    turn: int


Misbehaviour = Callable[["BadEngine", Call, Writer], Awaitable[None]]


@dataclass
class BadEngine:
    """Answers health checks as it should, and everything else as ``misbehave`` does.

    It goes on reading unless ``reads_bodies`` is False; then nothing after the first head.
    """

    misbehave: Misbehaviour
    reads_bodies: bool = True
    calls: list[Call] = field(default_factory=list)
    num_written_bytes: int = 0
    spoke_unasked: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """One connection."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        turn = 0
        while True:
            call = await self._read(reader, turn)
            if call.path in ("/health", "/v1/models", "/metrics"):
                writer.write(http(MODELS))
                continue
            self.calls.append(call)
            turn += 1
            await self.misbehave(self, call, writer)
            if not self.reads_bodies:
                await asyncio.sleep(3600.0)

    async def stop(self) -> None:
        """Close what is open."""
        connections = list(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _read(self, reader: Reader, turn: int) -> Call:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        size = int(dict(headers).get("content-length", "0"))
        body = await reader.readexactly(size) if self.reads_bodies or size < 1000 else b""
        return Call(first.split()[1], headers, body, turn)

    async def write_on(self, writer: Writer, data: bytes, num_times: int) -> None:
        """Write it so often, as far as it is taken."""
        for _ in range(num_times):
            writer.write(data)
            await writer.drain()
            self.num_written_bytes += len(data)


def http(body: bytes, status: int = 200, *headers: bytes) -> bytes:
    """A whole answer."""
    head = [b"HTTP/1.1 %03d X" % status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def completion(text: str) -> bytes:
    """A whole answer with a completion."""
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    body = {"id": "c", "choices": [{"text": text}], "usage": usage}
    return http(json.dumps(body).encode(), 200, b"content-type: application/json")


def honest(call: Call) -> bytes:
    """The right answer to a completion: it repeats the prompt."""
    return completion(f"for {json.loads(call.body)['prompt']}")


@asynccontextmanager
async def listening(engine: BadEngine) -> AsyncIterator[str]:
    """The engine on a free port, with little room for what it does not read; gives its URL."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    listener.bind(("127.0.0.1", 0))
    async with await asyncio.start_server(engine.serve, sock=listener):
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await engine.stop()


@asynccontextmanager
async def fleet_with(
    bad: BadEngine,
    *good: ScriptedEngine,
    sidecar: BadEngine | None = None,
    policy: str = "round_robin",
    **settings: Any,
) -> AsyncIterator[Fleet]:
    """A fleet whose unit ``bad`` is asked first; ``good`` engines are u0, u1, ..."""
    async with (
        listening(bad) as url,
        listening(sidecar or BadEngine(nothing)) as predictor_url,
        fleet(*good, policy=policy, **settings) as running,
    ):
        unit = {"name": "bad", "engine_url": url}
        if sidecar is not None:
            unit["predictor_url"] = predictor_url
        (await running.client.post("/admin/units", json=unit)).raise_for_status()
        yield running


async def nothing(engine: BadEngine, call: Call, writer: Writer) -> None:
    """No answer."""
