"""Messages over a stream: each with its length before it, those of one moment in one write."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import msgspec

Received = TypeVar("Received")
LENGTH_BYTES = 4

_encoder = msgspec.msgpack.Encoder()


class Channel(asyncio.Protocol, Generic[Received]):
    """One end of a connection between a worker and the scheduler, which trust each other."""

    def __init__(
        self,
        decoder: msgspec.msgpack.Decoder[Received],
        on_message: Callable[[Received], None],
        on_lost: Callable[[], None],
        *,
        greeting: msgspec.Struct | None = None,
    ) -> None:
        """``greeting`` is sent first."""
        self._decoder = decoder
        self._on_message = on_message
        self._on_lost = on_lost
        self._greeting = greeting
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._to_send = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Leaves when what runs now has run; after the connection's end it goes nowhere."""
        if not self._to_send:
            self._loop.call_soon(self._flush)
        payload = _encoder.encode(message)
        self._to_send += len(payload).to_bytes(LENGTH_BYTES, "little")
        self._to_send += payload

    def _flush(self) -> None:
        data, self._to_send = self._to_send, bytearray()
        if not self._transport.is_closing():
            self._transport.write(data)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._greeting is not None:
            self.send(self._greeting)

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) >= start + LENGTH_BYTES:
            size = int.from_bytes(received[start : start + LENGTH_BYTES], "little")
            end = start + LENGTH_BYTES + size
            if len(received) < end:
                break
            message = self._decoder.decode(memoryview(received)[start + LENGTH_BYTES : end])
            start = end
            self._on_message(message)
        del received[:start]

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()
