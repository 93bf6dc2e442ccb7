"""HTTP to engines, over real sockets, with engines that take HTTP's liberties."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pytest

from global_scheduler.connection_pool import (
    ConnectionPool,
    Origin,
    origin_of,
    origin_of_socket,
)
from global_scheduler.engine_http import BrokenOff, Response

pytestmark = pytest.mark.anyio

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
Answer = Callable[[Writer], Awaitable[None]]
WHOLE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Engine:
    """Answers each request on a connection with the next of its answers."""

    def __init__(self, *answers: Answer | bytes) -> None:
        self._answers = list(answers)
        self.heads: list[bytes] = []
        self.num_connections = 0

    async def serve(self, reader: Reader, writer: Writer) -> None:
        """One connection; closed after the last answer."""
        self.num_connections += 1
        try:
            while self._answers:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                answer = self._answers.pop(0)
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[Origin]:
    """The engine on a free port."""
    async with await asyncio.start_server(engine.serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        yield origin_of(f"http://127.0.0.1:{port}/base/")


def a_pool(idle_s: float = 5.0) -> ConnectionPool:
    """A pool."""
    return ConnectionPool(connect_timeout_s=1.0, idle_s=idle_s)


async def ask(
    pool: ConnectionPool,
    origin: Origin,
    method: str = "GET",
    silence_s: float = 5.0,
    is_total: bool = False,
) -> Response:
    """One request without a body."""
    return await pool.request(
        origin, method, "/x?y", [(b"a", b"b")], b"", silence_s=silence_s, is_total=is_total
    )


async def whole(response: Response) -> bytes:
    """All of the body."""
    seen: list[bytes] = []
    async with response:
        await _collect(response, seen)
    return b"".join(seen)


async def test_a_connection_serves_one_request_after_the_other() -> None:
    """Whether lengths are told or bodies come in chunks."""
    engine = Engine(WHOLE, CHUNKED + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n", WHOLE)
    async with serving(engine) as origin:
        pool = a_pool()
        assert [await whole(await ask(pool, origin)) for _ in range(3)] == [b"ok", b"abc", b"ok"]
        assert engine.num_connections == 1
        assert engine.heads[0].startswith(b"GET /base/x?y HTTP/1.1\r\nhost: 127.0.0.1:")


async def test_an_interim_answer_is_not_the_answer() -> None:
    """Its status and headers are passed over."""
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with serving(Engine(early + WHOLE)) as origin:
        response = await ask(a_pool(), origin)
        assert response.status == 200
        assert response.raw_headers == [(b"content-length", b"2")]
        assert await whole(response) == b"ok"


async def test_a_body_may_end_with_its_connection() -> None:
    """As HTTP/1.0 servers do it; the connection is not used again."""
    ending = b"HTTP/1.1 200 OK\r\n\r\nall of it"
    async with serving(Engine(ending)) as origin:
        assert await whole(await ask(a_pool(), origin)) == b"all of it"


async def test_the_answer_to_head_has_no_body() -> None:
    """Whatever its headers say."""
    engine = Engine(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", WHOLE)
    async with serving(engine) as origin:
        pool = a_pool()
        assert await whole(await ask(pool, origin, "HEAD")) == b""
        assert await whole(await ask(pool, origin)) == b"ok"


async def test_a_stale_connection_is_tried_once_more() -> None:
    """An engine may close an idle connection just as the next request is on its way."""

    async def answer_and_close(writer: Writer) -> None:
        writer.write(WHOLE)
        await writer.drain()
        writer.close()

    engine = Engine(answer_and_close, WHOLE)
    async with serving(engine) as origin:
        pool = a_pool()
        assert await whole(await ask(pool, origin)) == b"ok"
        assert await whole(await ask(pool, origin)) == b"ok"
        assert engine.num_connections == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000,
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ],
)
async def test_what_is_no_answer_fails(answer: bytes) -> None:
    """Closed at once, another protocol, a head without end, a protocol that nobody asked for."""
    async with serving(Engine(answer)) as origin:
        with pytest.raises(BrokenOff):
            await ask(a_pool(), origin)


async def test_what_came_before_a_break_is_read_first() -> None:
    """The reader learns of the break where it happened."""
    async with serving(Engine(CHUNKED + b"2\r\nab\r\n")) as origin:
        response = await ask(a_pool(), origin)
        assert await response.read_some() == b"ab"
        with pytest.raises(BrokenOff):
            await response.read_some()


@pytest.mark.parametrize("is_total", [False, True])
async def test_silence_or_the_whole_answer_has_a_limit(is_total: bool) -> None:
    """Chunks keep a stream alive, but for callers who need all of it by then."""

    async def drip(writer: Writer) -> None:
        writer.write(CHUNKED)
        for _ in range(8):
            writer.write(b"1\r\na\r\n")
            await asyncio.sleep(0.1)
        await asyncio.sleep(1.2)

    async with serving(Engine(drip)) as origin:
        response = await ask(a_pool(), origin, silence_s=0.6, is_total=is_total)
        seen: list[bytes] = []
        with pytest.raises(BrokenOff) as caught:
            await _collect(response, seen)
        assert caught.value.was_late
        assert (len(b"".join(seen)) < 8) == is_total


async def _collect(response: Response, seen: list[bytes]) -> None:
    while chunk := await response.read_some():
        seen.append(chunk)


async def test_an_engine_waits_for_a_slow_reader() -> None:
    """What nobody has read does not pile up here."""
    num_written = 0

    async def flood(writer: Writer) -> None:
        nonlocal num_written
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
            await writer.drain()
            num_written += 1
        writer.write(b"0\r\n\r\n")

    async with serving(Engine(flood)) as origin:
        response = await ask(a_pool(), origin)
        await anyio.sleep(0.3)
        assert num_written < 300
        assert len(await whole(response)) == 400 * 65_536


async def test_leaving_an_answer_ends_the_engines_request() -> None:
    """Its connection is closed, not kept for the next one."""
    begun, closed = asyncio.Event(), asyncio.Event()

    async def never(reader: Reader, writer: Writer) -> None:
        await reader.readuntil(b"\r\n\r\n")
        begun.set()
        with suppress(ConnectionError):
            await reader.read()
        closed.set()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        origin = origin_of(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        asking = asyncio.ensure_future(ask(a_pool(), origin))
        with anyio.fail_after(60):
            await begun.wait()
        asking.cancel()
        with anyio.fail_after(60):
            await closed.wait()


async def test_idle_connections_are_closed_in_time() -> None:
    """Before the engine does it."""
    engine = Engine(WHOLE, WHOLE)
    async with serving(engine) as origin, anyio.create_task_group() as tasks:
        pool = a_pool(idle_s=0.1)
        tasks.start_soon(pool.run)
        await whole(await ask(pool, origin))
        await anyio.sleep(0.3)
        await whole(await ask(pool, origin))
        assert engine.num_connections == 2
        tasks.cancel_scope.cancel()


async def test_a_unix_socket_is_a_server_too(tmp_path: Path) -> None:
    """As workers reach their scheduler."""
    path = str(tmp_path / "s")
    async with await asyncio.start_unix_server(Engine(WHOLE).serve, path):
        assert await whole(await ask(a_pool(), origin_of_socket(path))) == b"ok"
