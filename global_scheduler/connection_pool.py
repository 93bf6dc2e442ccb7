"""Connections to engines and sidecars, kept alive between requests."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import defaultdict, deque
from typing import NamedTuple
from urllib.parse import urlsplit

import anyio

from global_scheduler.engine_http import BrokenOff, Connection, RawHeaders, Response


class Origin(NamedTuple):
    """Where to connect, and what stands before each path."""

    host: str
    port: int
    is_tls: bool
    host_header: bytes
    base_path: str
    socket_path: str | None = None
    """Of a Unix socket, in place of host and port."""


@functools.lru_cache
def origin_of(url: str) -> Origin:
    """From an http(s) URL.

    Raises:
        ValueError: host or port cannot be.
    """
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host_header = parts.netloc.rpartition("@")[2].encode("idna")
    port = parts.port or (443 if is_tls else 80)
    return Origin(parts.hostname or "", port, is_tls, host_header, parts.path.rstrip("/"))


def origin_of_socket(path: str) -> Origin:
    """A server on a Unix socket."""
    return Origin("", 0, False, b"localhost", "", path)


class ConnectionPool:
    """Connections by origin, kept alive for ``idle_s`` without a request."""

    def __init__(self, *, connect_timeout_s: float, idle_s: float) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_s = idle_s
        self._idle: defaultdict[Origin, deque[Connection]] = defaultdict(deque)
        self._tls: ssl.SSLContext | None = None

    async def run(self) -> None:
        """Close what has been idle for too long, until cancelled; then everything idle."""
        try:
            while True:
                await asyncio.sleep(self._idle_s / 4)
                self._close_idle(asyncio.get_running_loop().time() - self._idle_s)
        finally:
            self._close_idle(float("inf"))

    def _close_idle(self, since_s: float) -> None:
        for connections in self._idle.values():
            while connections and connections[0].idle_since_s <= since_s:
                connections.popleft().close()

    async def request(
        self,
        origin: Origin,
        method: str,
        target: str,
        headers: RawHeaders,
        body: bytes,
        *,
        silence_s: float,
        is_total: bool = False,
    ) -> Response:
        """Send a request and wait for the head of its answer.

        The engine may be silent for ``silence_s``, or take so long in all (``is_total``).

        Raises:
            OSError: there is no connection to be had; TimeoutError: not in time.
            BrokenOff: no head came.
        """
        request = _request(origin, method, target, headers, body)
        is_head = method == "HEAD"
        while True:
            connection = self._try_idle(origin) or await self._connect(origin)
            response = connection.send(
                request, is_head=is_head, silence_s=silence_s, is_total=is_total
            )
            try:
                await response.head()
            except BrokenOff as error:
                if not error.was_stale:
                    raise
            except BaseException:
                connection.leave(response)
                raise
            else:
                return response

    def _try_idle(self, origin: Origin) -> Connection | None:
        connections = self._idle.get(origin)
        oldest_s = asyncio.get_running_loop().time() - self._idle_s
        while connections:
            connection = connections.pop()
            if connection.is_usable and connection.idle_since_s > oldest_s:
                return connection
            connection.close()
        return None

    async def _connect(self, origin: Origin) -> Connection:
        # asyncio.wait_for may swallow a cancellation before Python 3.12.
        with anyio.fail_after(self._connect_timeout_s):
            _, connection = await self._open(origin)
        return connection

    async def _open(self, origin: Origin) -> tuple[asyncio.BaseTransport, Connection]:
        loop = asyncio.get_running_loop()

        def connection() -> Connection:
            return Connection(self._idle[origin])

        if origin.socket_path is not None:
            return await loop.create_unix_connection(connection, origin.socket_path)
        if origin.is_tls and self._tls is None:
            self._tls = ssl.create_default_context()
        tls = self._tls if origin.is_tls else None
        return await loop.create_connection(connection, origin.host, origin.port, ssl=tls)


def _request(origin: Origin, method: str, target: str, headers: RawHeaders, body: bytes) -> bytes:
    parts = [f"{method} {origin.base_path}{target} HTTP/1.1\r\nhost: ".encode("latin-1")]
    parts += (origin.host_header, b"\r\n")
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if body or method in ("POST", "PUT", "PATCH"):
        parts.append(b"content-length: %d\r\n" % len(body))
    parts += (b"\r\n", body)
    return b"".join(parts)
