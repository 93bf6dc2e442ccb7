"""Serves an engine's last snapshot to readers on other hosts, from a daemon thread.

``GET /snapshot`` answers msgpack, or JSON where the ``Accept`` header asks for it; ``GET /health``
answers ``{"status": "ok"}``. The thread shares the interpreter with the engine's own loop, so what
readers can cost is bounded: connections, the size of a request, how long it may trickle in, how
long an answer may take to drain, and requests a second over all connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import msgspec

from predictor.errors import ConfigurationError

MAX_CONNECTIONS = 16
MAX_REQUEST_BYTES = 4096
IO_TIMEOUT_S = 2.0
IDLE_TIMEOUT_S = 30.0
MAX_REQUESTS_PER_S = 500

_TCP_ADDRESS = re.compile(r"\[?(?P<host>[^\[\]/]+)\]?:(?P<port>\d{1,5})")


class SnapshotServer:
    """Listens from construction until ``close``."""

    def __init__(self, listen: str, latest: Callable[[], bytes]) -> None:
        """``listen`` is ``host:port`` or ``unix:/path``; ``latest`` returns msgpack or b"".

        Raises:
            ConfigurationError: ``listen`` has another form.
            OSError: the address cannot be listened at.
        """
        self._latest = latest
        self._socket = _bind(listen)
        self._unix_path = listen.removeprefix("unix:") if listen.startswith("unix:") else None
        self._connections: set[asyncio.Task[None]] = set()
        self._next_turn = 0.0
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(
            target=self._run, name="astrolabe-snapshot-server", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port listened at; 0 for a UNIX socket."""
        return 0 if self._unix_path else int(self._socket.getsockname()[1])

    def close(self) -> None:
        """Stop listening, drop every connection and remove the UNIX socket."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(IO_TIMEOUT_S)
        if self._unix_path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._unix_path)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        start = asyncio.start_unix_server if self._unix_path else asyncio.start_server
        server = await start(self._accept, sock=self._socket, limit=MAX_REQUEST_BYTES)
        await self._stopping.wait()
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None  # streams start every handler as a task
        self._connections.add(task)
        try:
            await self._converse(reader, writer)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # a reader that is slow, gone or broken has only itself to blame
        finally:
            self._connections.discard(task)
            # Not close(), which would wait for a reader that does not read.
            writer.transport.abort()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        keep_alive = True
        first_byte = b""
        while keep_alive:
            first_byte = await asyncio.wait_for(reader.readexactly(1), IDLE_TIMEOUT_S)
            try:
                rest = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), IO_TIMEOUT_S)
            except asyncio.LimitOverrunError:
                keep_alive, answer = False, _answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            else:
                await self._wait_for_turn()
                keep_alive, answer = self._respond((first_byte + rest).decode("latin-1"))
            writer.write(answer)
            await asyncio.wait_for(writer.drain(), IO_TIMEOUT_S)
        if writer.can_write_eof():
            writer.write_eof()
        # Give the answer time to leave before the connection is dropped.
        await asyncio.wait_for(reader.read(1), IO_TIMEOUT_S)

    async def _wait_for_turn(self) -> None:
        now = self._loop.time()
        turn = max(now, self._next_turn)
        self._next_turn = turn + 1 / MAX_REQUESTS_PER_S
        await asyncio.sleep(turn - now)

    def _respond(self, request: str) -> tuple[bool, bytes]:
        """Whether to keep the connection, and the answer to a request's head."""
        line, *fields = request.split("\r\n")
        headers = {
            name.strip().lower(): value.strip().lower()
            for name, _, value in (field.partition(":") for field in fields)
        }
        method, _, target = line.partition(" ")
        path, _, version = target.partition(" ")
        if not version.startswith("HTTP/1."):
            return False, _answer(HTTPStatus.BAD_REQUEST)
        if method != "GET" or "content-length" in headers or "transfer-encoding" in headers:
            return False, _answer(HTTPStatus.METHOD_NOT_ALLOWED)
        keep_alive = version == "HTTP/1.1" and headers.get("connection") != "close"
        return keep_alive, self._get(path.partition("?")[0], headers.get("accept", ""))

    def _get(self, path: str, accept: str) -> bytes:
        if path == "/health":
            return _answer(HTTPStatus.OK, b'{"status": "ok"}', "application/json")
        if path != "/snapshot":
            return _answer(HTTPStatus.NOT_FOUND)
        snapshot = self._latest()
        if not snapshot:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE)
        if "application/json" in accept:
            as_json = msgspec.json.encode(msgspec.msgpack.decode(snapshot))
            return _answer(HTTPStatus.OK, as_json, "application/json")
        return _answer(HTTPStatus.OK, snapshot, "application/msgpack")


def _bind(listen: str) -> socket.socket:
    if listen.startswith("unix:/"):
        path = Path(listen.removeprefix("unix:"))
        if path.is_socket():
            path.unlink()  # left behind by an engine that was killed
        unix_socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix_socket.bind(str(path))
        path.chmod(0o600)
        unix_socket.listen()
        return unix_socket
    address = _TCP_ADDRESS.fullmatch(listen)
    if address is None or int(address["port"]) > 65535:
        raise ConfigurationError(f"{listen!r} is neither host:port nor unix:/path")
    family = socket.AF_INET6 if ":" in address["host"] else socket.AF_INET
    return socket.create_server((address["host"], int(address["port"])), family=family)


def _answer(
    status: HTTPStatus, body: bytes = b"", content_type: str = "text/plain; charset=utf-8"
) -> bytes:
    body = body or f"{status.phrase}\n".encode()
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"content-type: {content_type}\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode() + body
