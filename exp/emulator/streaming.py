"""Waiting for an answer while watching whether the client is still there."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable

import anyio
from fastapi import Response
from starlette.types import Message, Receive, Scope, Send

from exp.emulator.generation import Generation
from exp.emulator.replies import DONE, Reply


@contextlib.asynccontextmanager
async def watching(receive: Receive, on_disconnect: Callable[[], None]) -> AsyncIterator[None]:
    """Call ``on_disconnect`` if the client leaves while the block runs."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        on_disconnect()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        yield
        tasks.cancel_scope.cancel()


class EventStream(Response):
    """Server-sent events, one a token; tokens that have piled up go out in one write."""

    media_type = "text/event-stream"

    def __init__(
        self, generation: Generation, reply: Reply, include_usage: bool, abort: Callable[[], None]
    ) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._generation = generation
        self._reply = reply
        self._include_usage = include_usage
        self._abort = abort

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer as it is generated; stop generating if the client leaves."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with watching(receive, self._abort):
            async for piece in self._pieces():
                await send(_body(piece, more=True))
        await send(_body(b"", more=False))

    async def _pieces(self) -> AsyncIterator[bytes]:
        generation, reply = self._generation, self._reply
        num_sent = 0
        while not (generation.is_finished and num_sent == generation.num_tokens):
            await generation.wait(num_sent)
            opening = reply.opening() if num_sent == 0 else b""
            num_tokens = generation.num_tokens
            if num_tokens > num_sent:
                yield opening + reply.chunks(num_sent, num_tokens)
            num_sent = num_tokens
        yield (reply.usage_chunk() if self._include_usage else b"") + DONE


def _body(data: bytes, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
