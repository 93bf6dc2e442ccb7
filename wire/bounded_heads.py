"""How much of a request's head the services' HTTP servers read: no more than 64 KB."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from wire.openai_errors import encode_error

MAX_HEAD_BYTES = 64 << 10
"""Of a request line and its headers; what a body has beside its data (sizes of chunks, trailers) is
held to the same."""
LINGER_S = 1.0
"""For so long a refused client's bytes are dropped, so that it can read why; a connection closed
on unread bytes is reset, and the answer with it."""

_TEXT = f"the request's head exceeds the limit of {MAX_HEAD_BYTES} bytes"
_BODY = encode_error(_TEXT, "invalid_request_error", None, "head_too_large")
_REFUSAL = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%s"
) % (len(_BODY), _BODY)


class BoundedHeadsProtocol(HttpToolsProtocol):
    """Uvicorn's protocol, but for heads without end: those get a 431 before they cost anything.

    The parser beneath has no limit, keeps each header until the request is complete, and joins the
    pieces of a header's value at a cost that grows with their square. So it is fed no more of a
    head than may be, however its bytes arrive.
    """

    _num_head_bytes = 0
    """Fed to the parser since it last reported the end of a head, data of a body, or the end of
    that. What follows such an end in one piece is not counted: a head that shares a piece with the
    request before it may have twice as much."""
    _is_refused = False

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._num_head_bytes + len(data) < MAX_HEAD_BYTES and not self._is_refused:
            self._num_head_bytes += len(data)
            super().data_received(data)  # nearly always
            return
        start = 0
        while start < len(data) and not self._is_refused and not self.transport.is_closing():
            piece = data[start : start + MAX_HEAD_BYTES - self._num_head_bytes]
            start += len(piece)
            self._num_head_bytes += len(piece)
            super().data_received(piece)
            if self._num_head_bytes >= MAX_HEAD_BYTES:
                self._refuse()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._num_head_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Data of a body, which has a limit of its own."""
        self._num_head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another request's head."""
        self._num_head_bytes = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        self._is_refused = True
        cycle = self.cycle
        is_idle = cycle is None or cycle.response_complete
        if self.pipeline or not (is_idle or not cycle.response_started):
            self.transport.close()  # in the midst of another answer no word would be understood
            return
        if not is_idle:
            cycle.disconnected = True
            cycle.message_event.set()
        self.transport.write(_REFUSAL)
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
