"""HTTP/1.1 to the engines: kept-alive connections over httptools' parser, and nothing else.

A general client spends more on a request than all of routing does (ADR 12). This one knows no
redirects, cookies, proxies or compression: what passes through the gateway needs none of them.
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from typing import cast

import httptools

RawHeaders = list[tuple[bytes, bytes]]

HIGH_WATER_BYTES = 256 << 10
"""Of an answer that its reader has not taken; then the engine has to wait."""
LARGEST_HEAD_BYTES = 64 << 10
"""Of a head, or of trailers, or of whatever else comes without a byte of body."""


class BrokenOff(Exception):
    """The connection failed, fell silent or spoke no HTTP before the answer was complete.

    ``was_stale``: it had served before and closed without a word, as engines close idle ones.
    ``was_late``: the time was up.
    """

    def __init__(self, reason: str, *, was_stale: bool = False, was_late: bool = False) -> None:
        super().__init__(reason)
        self.was_stale = was_stale
        self.was_late = was_late


class Response:
    """An answer whose head is there; the body is read as it comes."""

    __slots__ = (
        *("_chunks", "_connection", "_error", "_is_complete", "_num_bytes", "_waiter"),
        *("raw_headers", "status"),
    )

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.raw_headers: RawHeaders = []
        self._connection = connection
        self._chunks: deque[bytes] = deque()
        self._num_bytes = 0
        self._is_complete = False
        self._error: BrokenOff | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Response:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Ends the engine's request if the answer has not ended."""
        self._connection.leave(self)

    async def head(self) -> None:
        """Wait for the status and the headers.

        Raises:
            BrokenOff: none came.
        """
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._change()

    async def read_some(self) -> bytes:
        """All of the body that has come since the last call, at least a byte; empty at its end.

        Raises:
            BrokenOff: no more will come, and the answer is not complete.
        """
        while not self._chunks:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._change()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        if self._num_bytes > HIGH_WATER_BYTES:
            self._connection.go_on_reading()
        self._num_bytes = 0
        return data

    async def _change(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    # What follows is the connection's side.

    def add(self, data: bytes) -> bool:
        """A part of the body; True when that is enough for now."""
        self._chunks.append(data)
        self._num_bytes += len(data)
        return self._num_bytes > HIGH_WATER_BYTES

    def complete(self) -> None:
        """The body has ended."""
        self._is_complete = True

    def fail(self, error: BrokenOff) -> None:
        """It will not."""
        self._error = error
        self.wake()

    def wake(self) -> None:
        """Let the reader look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Connection(asyncio.Protocol):
    """One connection, for one request at a time."""

    def __init__(self, idle: deque[Connection]) -> None:
        self.idle_since_s = 0.0
        self._idle = idle
        """Where it waits for the next request."""
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._num_served = 0

    def send(self, request: bytes, *, is_head: bool, silence_s: float, is_total: bool) -> Response:
        """Send a request; its answer fails when the engine is silent for ``silence_s``, or has not
        ended by then (``is_total``)."""
        self._response = response = Response(self)
        self._is_head = is_head
        self._status, self._headers = 0, cast(RawHeaders, [])
        self._bodiless_bytes = 0
        self._ends_with_connection = self._is_paused = False
        self._silence_s, self._heard_s = silence_s, self._loop.time()
        self._is_total = is_total
        self._timer = self._loop.call_later(silence_s, self._check_silence)
        self._transport.write(request)
        return response

    def leave(self, response: Response) -> None:
        """The reader of this answer is done; if the answer is not, neither is the engine."""
        if self._response is response:
            self._end_response()
            self.close()

    def go_on_reading(self) -> None:
        """The reader has taken what there was."""
        if self._is_paused:
            self._is_paused = False
            self._heard_s = self._loop.time()
            self._transport.resume_reading()

    def close(self) -> None:
        """At once."""
        self._transport.abort()

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request: the engine has neither closed it nor said more.

        What the event loop has not read yet counts: it would be taken for the next answer.
        """
        return not self._transport.is_closing() and not self._unread.poll(0)

    def _check_silence(self) -> None:
        response = self._response
        if response is None:
            return
        quiet_s = 0.0 if self._is_paused else self._loop.time() - self._heard_s
        if quiet_s >= self._silence_s:
            self._fail("no answer in time", was_late=True)
        else:
            self._timer = self._loop.call_later(self._silence_s - quiet_s, self._check_silence)

    def _fail(self, reason: str, *, was_stale: bool = False, was_late: bool = False) -> None:
        response = self._response
        if response is not None:
            self._end_response()
            response.fail(BrokenOff(reason, was_stale=was_stale, was_late=was_late))
        self.close()

    def _end_response(self) -> None:
        self._response = None
        self._timer.cancel()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._unread = select.poll()
        self._unread.register(transport.get_extra_info("socket"), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.close()  # nobody has asked
            return
        if not self._is_total:
            self._heard_s = self._loop.time()
        self._bodiless_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"no valid HTTP: {error}")
        else:
            if self._bodiless_bytes > LARGEST_HEAD_BYTES:
                self._fail(f"head or trailers exceed {LARGEST_HEAD_BYTES} bytes")
        response.wake()

    def eof_received(self) -> bool:
        if self._response is not None and self._ends_with_connection:
            response = self._response
            self._end_response()
            response.complete()
            response.wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._response is not None:
            is_stale = self._num_served > 0 and not self._status and not self._bodiless_bytes
            reason = f"connection lost: {exc}" if exc else "the engine closed the connection"
            self._fail(reason, was_stale=is_stale)

    # httptools

    def on_message_begin(self) -> None:
        self._headers = []
        if self._response is None:
            self.close()  # more than was asked for: the next request must not get it

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._status:  # no trailers
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status, response = self._parser.get_status_code(), self._response
        if response is None or 100 <= status < 200:
            return  # an interim answer; the final one follows
        if not 200 <= status < 600:
            self._fail(f"no valid HTTP: status {status}")
            return
        self._status = response.status = status
        response.raw_headers = self._headers
        names = [name for name, _ in self._headers]
        self._ends_with_connection = not (
            status in (204, 304) or b"content-length" in names or b"transfer-encoding" in names
        )
        if self._is_head:
            # What its headers say of a body is not true of this answer.
            self._end_response()
            response.complete()
            self.close()

    def on_body(self, body: bytes) -> None:
        self._bodiless_bytes = 0
        response = self._response
        if response is not None and response.add(body) and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not self._status:
            return
        self._end_response()
        response.complete()
        if self._is_paused:
            self._transport.resume_reading()
        # An engine that answers before it has read all may never read what follows either.
        is_all_sent = not self._transport.get_write_buffer_size()
        if is_all_sent and self._parser.should_keep_alive():
            self._num_served += 1
            self.idle_since_s = self._loop.time()
            self._idle.append(self)
        else:
            self.close()
