"""A worker's side: its clients' generations, decided by the scheduler and carried out here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

import msgspec

from global_scheduler.bodies import GenerationRequest
from global_scheduler.carrying import Errand, carry
from global_scheduler.errors import GatewayError, UpstreamFailed
from global_scheduler.exchange import Exchange
from global_scheduler.upstream import UnitFailed, Upstream
from global_scheduler.workers.messages import Answered, Begun, Failed, Go, Left, Sorry, Streamed

TELL_EVERY_S = 0.05
"""How far a stream is, but for its first token, which is told at once."""


class Refusal(GatewayError):
    """An error that the scheduler has found."""

    def __init__(self, sorry: Sorry) -> None:
        super().__init__("refused by the scheduler")
        self.status = sorry.status
        self._sorry = sorry

    def body(self) -> bytes:
        """As the scheduler has written it."""
        return self._sorry.body

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As the scheduler has written them."""
        return self._sorry.headers


class RemoteGenerations:
    """Generations under way in this worker."""

    def __init__(self, upstream: Upstream, send: Callable[[msgspec.Struct], None]) -> None:
        self._upstream = upstream
        self._send = send
        self._numbers = count()
        self._orders: dict[int, asyncio.Future[Go | Sorry]] = {}
        self._num_tokens: dict[int, int] = {}

    def ordered(self, order: Go | Sorry) -> None:
        """The scheduler has decided."""
        future = self._orders.get(order.number)
        if future is not None and not future.done():
            future.set_result(order)

    async def __call__(self, exchange: Exchange, request: GenerationRequest, body: bytes) -> None:
        """Answer one request; see ``gateway.Generate``."""
        number = next(self._numbers)
        is_over = False
        self._expect(number)
        self._send(Begun(number, exchange.request_id, exchange.scope["headers"], request))
        try:
            async with exchange.until_client_leaves():
                while not is_over:
                    order = await self._orders[number]
                    if isinstance(order, Sorry):
                        is_over = True
                        raise Refusal(order)
                    self._expect(number)
                    is_over = await self._run(number, exchange, body, order.errand)
        finally:
            del self._orders[number]
            self._num_tokens.pop(number, None)
            if not is_over:
                self._send(Left(number))

    def _expect(self, number: int) -> None:
        self._orders[number] = asyncio.get_running_loop().create_future()

    async def _run(self, number: int, exchange: Exchange, body: bytes, errand: Errand) -> bool:
        """Whether the client has its answer."""
        exchange.request_id = errand.request_id

        is_first = True

        def on_tokens(num_tokens: int) -> None:
            nonlocal is_first
            if is_first:
                is_first = False
                self._send(Streamed({number: num_tokens}))
            else:
                self._streamed(number, num_tokens)

        try:
            relayed = await carry(self._upstream, exchange, body, errand, on_tokens)
        except UnitFailed as failure:
            self._send(Failed(number, str(failure), False, failure.refused, None))
            return False
        except UpstreamFailed as error:
            self._send(Failed(number, error.message, True, False, error.code))
            return False
        self._send(Answered(number, relayed))
        return True

    def _streamed(self, number: int, num_tokens: int) -> None:
        if not self._num_tokens:
            asyncio.get_running_loop().call_later(TELL_EVERY_S, self._tell)
        self._num_tokens[number] = num_tokens

    def _tell(self) -> None:
        if self._num_tokens:
            self._send(Streamed(self._num_tokens))
            self._num_tokens = {}
