"""One HTTP exchange with a client: reading its body, watching for its leaving, answering."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from starlette.types import Receive, Scope, Send

from global_scheduler.engine_http import RawHeaders
from global_scheduler.errors import BadRequest, BodyTooLarge, GatewayError, RequestTimeout

BODY_TIMEOUT_S = 30.0
DRAIN_FACTOR = 8
"""A body over the limit is read and dropped up to this many times the limit, because a client that
is still sending does not see an answer."""


CLIENT_CLOSED_REQUEST = 499
"""The status of a request whose client has left, as the log and the metrics have it."""


class ClientGone(Exception):
    """The client closed its connection before it had its answer."""


def check_host(scope: Scope) -> None:
    """See that an HTTP request says once whom it is for; HTTP/1.0 need not say it at all.

    Raises:
        BadRequest: it does not (RFC 9112, section 3.2).
    """
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    if len(hosts) > 1:
        raise BadRequest(f"a request has one Host header, not {len(hosts)}", param="host")
    if not hosts and scope["http_version"] != "1.0":
        raise BadRequest("a request needs a Host header", param="host")


class Caller(Protocol):
    """Who has sent a request, as far as routing it needs to know."""

    request_id: str
    standing_headers: RawHeaders
    """What the answer carries, whatever it will be."""

    def header(self, name: bytes) -> bytes | None:
        """A request header by its lower-case name."""

    def until_client_leaves(self) -> AbstractAsyncContextManager[None]:
        """Run the block until the client disconnects.

        Raises:
            ClientGone: it did so before the answer was complete.
        """


class Interruptible:
    """A task that others may end for a reason.

    Two cancel scopes a request would cost a fifth of all that the gateway does for it.
    """

    _interruption: GatewayError | ClientGone | None = None

    def interrupt(self, task: asyncio.Task[None] | None, reason: GatewayError | ClientGone) -> None:
        """Cancel the task, which shall fail with ``reason``."""
        assert task is not None
        self._interruption = reason
        task.cancel()

    async def settle(self) -> None:
        """After what could be interrupted: an interruption under way counts even if it is late."""
        if self._interruption is None:
            return
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.raise_interruption()
            raise

    def raise_interruption(self) -> None:
        """To be called where the task was cancelled; returns if it was so from elsewhere."""
        reason, self._interruption = self._interruption, None
        if reason is None:
            return
        if sys.version_info >= (3, 11):
            task = asyncio.current_task()
            assert task is not None
            task.uncancel()
        raise reason


class Exchange(Interruptible):
    """A request from a client and the answer to it; made by the task that serves it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.scope = scope
        self.request_id = request_id
        self.started = False
        """Whether the response's head has been sent."""
        self.complete = False
        """Whether the client has all of its answer; leaving then is no disconnect."""
        self.standing_headers: RawHeaders = []
        """What the answer carries, whatever it will be."""
        self._is_event_stream = False
        self._task = asyncio.current_task()
        self._receive = receive
        self._send = send
        self._headers: dict[bytes, bytes] | None = None

    @property
    def target(self) -> str:
        """Path and query string as the client sent them."""
        path: str = self.scope["raw_path"].decode("latin-1")
        query: str = self.scope["query_string"].decode("latin-1")
        return f"{path}?{query}" if query else path

    def header(self, name: bytes) -> bytes | None:
        """A request header by its lower-case name."""
        if self._headers is None:
            self._headers = dict(reversed(self.scope["headers"]))  # the first of a name counts
        return self._headers.get(name)

    async def body(self, limit_bytes: int) -> bytes:
        """The whole request body.

        Raises:
            BodyTooLarge: it exceeds ``limit_bytes``.
            RequestTimeout: it did not arrive in time.
            ClientGone: the client left while it sent.
        """
        timer = asyncio.get_running_loop().call_later(BODY_TIMEOUT_S, self._body_is_late)
        try:
            body = await self._read_body(limit_bytes)
            await self.settle()
            return body
        except asyncio.CancelledError:
            self.raise_interruption()
            raise
        finally:
            timer.cancel()

    def _body_is_late(self) -> None:
        self.interrupt(self._task, RequestTimeout("the body did not arrive in time"))

    async def _read_body(self, limit_bytes: int) -> bytes:
        chunks: list[bytes] = []
        size, more_body = 0, True
        while more_body and size <= limit_bytes * DRAIN_FACTOR:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            more_body = message.get("more_body", False)
            size += len(chunk)
            if size > limit_bytes:
                chunks.clear()
            else:
                chunks.append(chunk)
        if size > limit_bytes:
            raise BodyTooLarge(
                f"the body exceeds the limit of {limit_bytes} bytes", code="body_too_large"
            )
        return b"".join(chunks)

    @asynccontextmanager
    async def until_client_leaves(self) -> AsyncIterator[None]:
        """Run the block until the client disconnects.

        Raises:
            ClientGone: it did so before the answer was complete.
        """
        watcher = asyncio.create_task(self._watch())
        try:
            yield
            await self.settle()
        except asyncio.CancelledError:
            self.raise_interruption()
            raise
        finally:
            watcher.cancel()

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self.complete:
            self.interrupt(self._task, ClientGone())

    async def start(self, status: int, headers: RawHeaders) -> None:
        """Send the response's head."""
        self.started = True
        self._is_event_stream = any(
            name == b"content-type" and value.startswith(b"text/event-stream")
            for name, value in headers
        )
        headers = headers + self.standing_headers
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, chunk: bytes) -> None:
        """Send a part of the response's body."""
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def finish(self, chunk: bytes = b"") -> None:
        """Send the last part of the response's body."""
        self.complete = True
        await self._send({"type": "http.response.body", "body": chunk})

    async def answer(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """Send a whole response."""
        headers.append((b"content-length", b"%d" % len(body)))
        await self.start(status, headers)
        await self.finish(body)

    async def answer_error(self, error: GatewayError) -> None:
        """Send an OpenAI-style error; inside a stream, as a server-sent event.

        Other answers under way cannot tell: left incomplete, their connection is closed.
        """
        if self.started:
            if self._is_event_stream and not self.complete:
                await self.finish(b"data: " + error.body() + b"\n\ndata: [DONE]\n\n")
            return
        headers = [
            (b"content-type", b"application/json"),
            (b"x-request-id", self.request_id.encode("ascii")),
            *error.headers(),
        ]
        await self.answer(error.status, headers, error.body())
