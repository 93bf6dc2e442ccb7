"""The scheduler's side: routes the generations whose clients workers hold.

Queues, ledger, limits, quotas, metrics and decisions are those of this one process, so whatever
holds for a gateway of one process holds for all workers together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from global_scheduler.carrying import Errand, OnTokens
from global_scheduler.engine_http import RawHeaders
from global_scheduler.errors import GatewayError, UpstreamFailed
from global_scheduler.exchange import ClientGone, Interruptible
from global_scheduler.generations import Generations
from global_scheduler.relay import Relayed
from global_scheduler.upstream import UnitFailed
from global_scheduler.workers.channel import Channel
from global_scheduler.workers.messages import (
    Answered,
    Begun,
    Configured,
    Failed,
    FromWorker,
    Go,
    Refused,
    Sorry,
    Streamed,
)

logger = logging.getLogger(__name__)


class RemoteCaller(Interruptible):
    """A client whose connection a worker holds."""

    def __init__(self, begun: Begun, send: Callable[[msgspec.Struct], None]) -> None:
        self.request_id = begun.request_id
        self.standing_headers: RawHeaders = []
        self._number = begun.number
        self._headers = dict(reversed(begun.headers))
        self._send = send
        self._task: asyncio.Task[None] | None = None
        self._has_left = False
        self._on_tokens: OnTokens | None = None
        self._outcome: asyncio.Future[Relayed] | None = None

    def header(self, name: bytes) -> bytes | None:
        """See ``Caller``."""
        return self._headers.get(name)

    @asynccontextmanager
    async def until_client_leaves(self) -> AsyncIterator[None]:
        """See ``Caller``."""
        if self._has_left:
            raise ClientGone
        self._task = asyncio.current_task()
        try:
            yield
        except asyncio.CancelledError:
            self.raise_interruption()
            raise
        finally:
            self._task = None

    async def carry(self, errand: Errand, on_tokens: OnTokens) -> Relayed:
        """Let the worker run an errand; see ``carrying.Carry``."""
        headers = errand.headers + self.standing_headers
        self._outcome = asyncio.get_running_loop().create_future()
        self._on_tokens = on_tokens
        self._send(Go(self._number, msgspec.structs.replace(errand, headers=headers)))
        try:
            return await self._outcome
        finally:
            self._on_tokens = None

    def refuse(self, error: GatewayError) -> None:
        """Let the worker answer with an error."""
        headers = error.headers() + self.standing_headers
        self._send(Sorry(self._number, error.status, headers, error.body()))

    # What the worker says.

    def left(self) -> None:
        """The client has gone, or the worker with it."""
        self._has_left = True
        if self._task is not None:
            self.interrupt(self._task, ClientGone())

    def streamed(self, num_tokens: int) -> None:
        """So many tokens have come back."""
        if self._on_tokens is not None:
            self._on_tokens(num_tokens)

    def ended(self, outcome: Relayed | UnitFailed | UpstreamFailed) -> None:
        """The errand is over."""
        if self._outcome is None or self._outcome.done():
            return
        if isinstance(outcome, Relayed):
            self._outcome.set_result(outcome)
        else:
            self._outcome.set_exception(outcome)


class Desk:
    """Serves one worker."""

    def __init__(
        self, generations: Generations, count_refused: Callable[[int], None], hello: Configured
    ) -> None:
        self._generations = generations
        self._count_refused = count_refused
        self._callers: dict[int, RemoteCaller] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        decoder = msgspec.msgpack.Decoder(FromWorker)
        self.channel: Channel[FromWorker] = Channel(
            decoder, self._take, self._worker_gone, greeting=hello
        )

    def _take(self, message: FromWorker) -> None:
        if isinstance(message, Begun):
            self._begin(message)
        elif isinstance(message, Streamed):
            for number, num_tokens in message.num_tokens.items():
                if number in self._callers:
                    self._callers[number].streamed(num_tokens)
        elif isinstance(message, Refused):
            self._count_refused(message.status)
        elif message.number in self._callers:
            caller = self._callers[message.number]
            if isinstance(message, Answered):
                caller.ended(message.relayed)
            elif isinstance(message, Failed):
                caller.ended(_failure(message))
            else:
                caller.left()

    def _begin(self, begun: Begun) -> None:
        caller = self._callers[begun.number] = RemoteCaller(begun, self.channel.send)
        task = asyncio.get_running_loop().create_task(self._serve(begun, caller))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, begun: Begun, caller: RemoteCaller) -> None:
        try:
            await self._generations.serve(caller, begun.request, caller.carry)
        except ClientGone:
            pass
        except GatewayError as error:
            caller.refuse(error)
        except Exception:
            logger.exception("request %s failed", caller.request_id)
            caller.refuse(GatewayError("internal error of the gateway"))
        finally:
            del self._callers[begun.number]

    def _worker_gone(self) -> None:
        for caller in self._callers.values():
            caller.left()


def _failure(message: Failed) -> UnitFailed | UpstreamFailed:
    if message.was_begun:
        return UpstreamFailed(message.reason, code=message.code)
    return UnitFailed(message.reason, refused=message.was_refused)
