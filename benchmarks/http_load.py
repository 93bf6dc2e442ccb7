"""A closed-loop HTTP load client that costs far less than the server it measures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

CHUNK_MARK = b"data: {"


@dataclass(slots=True)
class LoadResult:
    """What a load saw. Latencies are in seconds, whole request each."""

    num_requests: int = 0
    num_chunks: int = 0
    num_errors: int = 0
    first_error: str = ""
    """The end of the first answer that was none."""
    duration_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    first_byte_s: list[float] = field(default_factory=list)
    gaps_s: list[float] | None = None
    """Between the arrivals of one stream's chunks; None if nobody wants them."""


class _Connection(asyncio.Protocol):
    """Sends its request again as soon as the answer is complete."""

    def __init__(
        self, next_request: Callable[[], bytes], result: LoadResult, until_s: float
    ) -> None:
        self._next_request = next_request
        self._result = result
        self._until_s = until_s
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._next()

    def _next(self) -> None:
        self._buffer = b""
        self._body_starts = -1
        self._saw_event = False
        self._last_s: float | None = None
        request = self._next_request()
        self._started_s = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._body_starts < 0:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self._buffer[:end].lower()
            self._body_starts = end + 4
            _, found, length = head.partition(b"content-length: ")
            self._size = self._body_starts + int(length.split(b"\r\n", 1)[0]) if found else -1
            self._ok = head.startswith(b"http/1.1 200")
        if not self._saw_event and len(self._buffer) > self._body_starts:
            self._saw_event = True
            self._result.first_byte_s.append(time.perf_counter() - self._started_s)
        if self._result.gaps_s is not None:
            self._note_gap(self._result.gaps_s)
        if self._is_complete():
            self._finish()

    def _note_gap(self, gaps_s: list[float]) -> None:
        now_s = time.perf_counter()
        if self._last_s is not None:
            gaps_s.append(now_s - self._last_s)
        if self._saw_event:
            self._last_s = now_s

    def _is_complete(self) -> bool:
        if self._size >= 0:
            return len(self._buffer) >= self._size
        return self._buffer.endswith(b"0\r\n\r\n")

    def _finish(self) -> None:
        now_s = time.perf_counter()
        self._result.num_requests += 1
        if not self._ok:
            self._result.num_errors += 1
            self._result.first_error = self._result.first_error or repr(self._buffer[-300:])
        self._result.num_chunks += self._buffer.count(CHUNK_MARK)
        self._result.latencies_s.append(now_s - self._started_s)
        if now_s < self._until_s:
            self._next()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._result.num_errors += 1
        if not self.done.done():
            self.done.set_result(None)


async def closed_loop(
    port: int,
    path: str,
    body: bytes | Callable[[], bytes],
    *,
    num_connections: int,
    duration_s: float,
    stagger_s: float = 0.0,
    with_gaps: bool = False,
) -> LoadResult:
    """Keep ``num_connections`` requests in flight for ``duration_s`` on 127.0.0.1:``port``.

    Each has the same ``body``, or the one that a call of it gives. Connections are opened evenly
    over the first ``stagger_s``.
    """
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"

    def request(body: bytes) -> bytes:
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    fixed = request(body) if isinstance(body, bytes) else b""

    def next_request() -> bytes:
        return fixed if isinstance(body, bytes) else request(body())

    loop = asyncio.get_running_loop()
    result = LoadResult(gaps_s=[] if with_gaps else None)
    started_s = time.perf_counter()
    connections = []
    for index in range(num_connections):
        due_s = started_s + stagger_s * index / num_connections
        await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
        _, connection = await loop.create_connection(
            lambda: _Connection(next_request, result, started_s + duration_s), "127.0.0.1", port
        )
        connections.append(connection)
    await asyncio.wait_for(asyncio.gather(*(c.done for c in connections)), duration_s * 4 + 10)
    result.duration_s = time.perf_counter() - started_s
    return result
