"""An engine and sidecar that answer at once, as cheaply as Python can: the gateway is the load.

``python -m benchmarks.instant_engine --port 9101``. It speaks just enough HTTP/1.1 for a client
that frames its bodies with Content-Length, and nothing of it models an engine's latency.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import cast

import msgspec
import uvloop

from wire.prediction import PredictBatchRequest, PredictBatchResponse, Prediction

NUM_CHUNKS = 64
COMPLETION = (
    b'{"id":"cmpl-1","object":"text_completion","model":"instant","choices":[{"index":0,'
    b'"text":"ok","finish_reason":"length"}],"usage":{"prompt_tokens":8,"completion_tokens":1}}'
)
EVENT = (
    b'data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"instant",'
    b'"choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null}]}\n\n'
)


def _whole(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    return head % len(body) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
STREAM_END = _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
MODELS = _whole(b'{"object":"list","data":[{"id":"instant","object":"model"}]}')
ANSWER = _whole(COMPLETION)


class InstantEngine(asyncio.Protocol):
    """One connection. Events of a stream are ``gap_s`` apart, the first one included."""

    def __init__(self, gap_s: float = 0.0) -> None:
        self._buffer = b""
        self._gap_s = gap_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Answer each complete request in the buffer."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, length = head.partition(b"content-length: ")
            size = end + 4 + (int(length.split(b"\r\n", 1)[0]) if found else 0)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            self._answer(head.split(b" ", 2)[1], body)

    def _answer(self, path: bytes, body: bytes) -> None:
        if path == b"/predict/batch":
            self._transport.write(_whole(_predictions(body)))
        elif path == b"/v1/models":
            self._transport.write(MODELS)
        elif b'"stream":true' in body:
            self._transport.write(STREAM_HEAD)
            if self._gap_s:
                self._loop = asyncio.get_running_loop()
                self._stream(NUM_CHUNKS, self._loop.time() + self._gap_s)
                return
            # One write an event, as an engine's steps make them.
            for _ in range(NUM_CHUNKS):
                self._transport.write(_chunk(EVENT))
            self._transport.write(STREAM_END)
        else:
            self._transport.write(ANSWER)

    def _stream(self, num_left: int, due_s: float) -> None:
        """Send the next event when it is due; lateness does not add up."""
        if num_left == 0:
            self._transport.write(STREAM_END)
        elif not self._transport.is_closing():
            self._loop.call_at(due_s, self._event, num_left, due_s)

    def _event(self, num_left: int, due_s: float) -> None:
        self._transport.write(_chunk(EVENT))
        self._stream(num_left - 1, due_s + self._gap_s)


def _predictions(body: bytes) -> bytes:
    batch = msgspec.json.decode(body, type=PredictBatchRequest)
    num_running = len(batch.sent or ())
    predictions = [
        Prediction(
            request_id=request.request_id,
            queue_ms=0.0,
            ttft_ms=1.0 + num_running,
            tpot_ms=1.0,
            e2e_ms=2.0 + num_running,
            added_delay_others_ms=0.0,
            kv_blocks_free=1000,
            kv_blocks_total=1000,
            kv_blocks_wanted=0,
            num_running=num_running,
            num_waiting=0,
            num_preempted=0,
            num_unprocessed_tokens=0,
            state_source="plugin",
            state_age_ms=0.0,
            backend="instant",
            time_to_predict_ms=0.0,
        )
        for request in batch.requests
    ]
    return msgspec.json.encode(PredictBatchResponse(predictions=predictions))


async def _serve(port: int, gap_s: float) -> None:
    server = await asyncio.get_running_loop().create_server(
        lambda: InstantEngine(gap_s), "127.0.0.1", port, backlog=2048
    )
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--gap-ms", type=float, default=0.0, help="between a stream's events")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.gap_ms / 1e3))
