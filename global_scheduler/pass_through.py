"""The paths of ``/v1`` that are no generations: the models, and all that passes unread."""

from __future__ import annotations

import time

import msgspec

from global_scheduler.dispatch import Dispatcher
from global_scheduler.engine_http import RawHeaders
from global_scheduler.errors import UpstreamFailed
from global_scheduler.exchange import Exchange
from global_scheduler.generations import note_failure, unit_headers
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.quotas.limiter import Limiter
from global_scheduler.relay import relay_stream
from global_scheduler.units import UnitRegistry
from global_scheduler.upstream import UnitFailed, Upstream


class _ModelOnly(msgspec.Struct):
    model: str | None = None


class PassThrough:
    """Answers what has no path of its own."""

    def __init__(
        self,
        units: UnitRegistry,
        dispatcher: Dispatcher,
        upstream: Upstream,
        metrics: GatewayMetrics,
        limiter: Limiter,
        *,
        max_body_bytes: int,
    ) -> None:
        self._units = units
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._metrics = metrics
        self._limiter = limiter
        self._max_body_bytes = max_body_bytes

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request.

        Raises:
            GatewayError: it cannot be answered.
            ClientGone: nobody waits for the answer any more.
        """
        if exchange.scope["path"] == "/v1/models" and exchange.scope["method"] == "GET":
            await self._list_models(exchange)
        else:
            await self._pass_through(exchange)

    async def _list_models(self, exchange: Exchange) -> None:
        content = {"object": "list", "data": list(self._units.models().values())}
        headers: RawHeaders = [
            (b"content-type", b"application/json"),
            (b"x-request-id", exchange.request_id.encode("ascii")),
        ]
        await exchange.answer(200, headers, msgspec.json.encode(content))

    async def _pass_through(self, exchange: Exchange) -> None:
        """Any other path: to the least loaded unit that serves the body's model, unread."""
        body = await exchange.body(self._max_body_bytes)
        unit = self._dispatcher.any_unit(_model_of(exchange, body))
        request_id = exchange.request_id
        headers = self._upstream.headers(exchange.scope["headers"], request_id)
        method, target = exchange.scope["method"], exchange.target
        # How many tokens it takes is not known before the answer, and only if that is streamed.
        async with (
            self._limiter.reserved(exchange, 0, 0) as reservation,
            exchange.until_client_leaves(),
        ):
            try:
                opening = self._upstream.open(unit.engine_url, method, target, headers, body)
                async with await opening as response:
                    relayed = await relay_stream(
                        response,
                        exchange,
                        unit_headers(unit, request_id),
                        may_retry=False,
                        clock=time.monotonic,
                        on_tokens=lambda _: None,
                    )
            except UnitFailed as failure:
                note_failure(unit, failure, request_id, self._metrics)
                raise UpstreamFailed(f"unit {unit.name} failed: {failure}") from failure
            reservation.answered(relayed)
            self._metrics.request_ended(unit.name, relayed.status)


def _model_of(exchange: Exchange, body: bytes) -> str | None:
    if b"json" not in (exchange.header(b"content-type") or b""):
        return None
    try:
        return msgspec.json.decode(body, type=_ModelOnly).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
