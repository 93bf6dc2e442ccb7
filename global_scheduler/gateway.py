"""The data path: every ``/v1/*`` request, as a bare ASGI application.

A framework's routing and request objects cost more than the routing decision itself, so this path
uses none; ``app.py`` puts FastAPI beside it for everything else.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable

import msgspec
from starlette.types import Receive, Scope, Send

from global_scheduler.bodies import GenerationRequest, parse_chat, parse_completion
from global_scheduler.dispatch import Dispatcher
from global_scheduler.engine_http import RawHeaders
from global_scheduler.errors import (
    BadRequest,
    GatewayError,
    NotFound,
    Unauthorized,
    UpstreamFailed,
)
from global_scheduler.exchange import ClientGone, Exchange
from global_scheduler.generations import (
    CLIENT_CLOSED_REQUEST,
    Generations,
    note_failure,
    unit_headers,
)
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.quotas.limiter import Limiter
from global_scheduler.relay import relay_stream
from global_scheduler.units import UnitRegistry
from global_scheduler.upstream import UnitFailed, Upstream

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
PARSERS: dict[str, Callable[[bytes], GenerationRequest]] = {
    "/v1/completions": parse_completion,
    "/v1/chat/completions": parse_chat,
}


class _ModelOnly(msgspec.Struct):
    model: str | None = None


class Gateway:
    """The front door: who may come in, and where to."""

    def __init__(
        self,
        units: UnitRegistry,
        dispatcher: Dispatcher,
        upstream: Upstream,
        generations: Generations,
        metrics: GatewayMetrics,
        limiter: Limiter,
        *,
        max_body_bytes: int,
        api_keys: tuple[str, ...],
    ) -> None:
        """Without ``api_keys`` everyone may come in, and clients' keys go on to the engines."""
        self._units = units
        self._dispatcher = dispatcher
        self._upstream = upstream
        self._generations = generations
        self._metrics = metrics
        self._limiter = limiter
        self._max_body_bytes = max_body_bytes
        self._api_keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; every error ends here."""
        exchange = Exchange(scope, receive, send, _request_id(scope))
        try:
            self._check_key(exchange)
            await self._route(exchange)
        except ClientGone:
            self._metrics.request_ended("none", CLIENT_CLOSED_REQUEST)
        except GatewayError as error:
            self._metrics.request_ended("none", error.status)
            await exchange.answer_error(error)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            self._metrics.request_ended("none", GatewayError.status)
            await exchange.answer_error(GatewayError("internal error of the gateway"))

    def _check_key(self, exchange: Exchange) -> None:
        if not self._api_keys:
            return
        scheme, _, key = (exchange.header(b"authorization") or b"").partition(b" ")
        known = [hmac.compare_digest(key, valid) for valid in self._api_keys]
        if scheme.lower() != b"bearer" or not any(known):
            raise Unauthorized("missing or wrong API key", code="invalid_api_key")

    async def _route(self, exchange: Exchange) -> None:
        path, method = exchange.scope["path"], exchange.scope["method"]
        if ".." in path:
            raise NotFound(f"no such path: {path}")
        if path == "/v1/models" and method == "GET":
            await self._list_models(exchange)
        elif path in PARSERS:
            if method != "POST":
                raise BadRequest(f"{path} takes POST, not {method}")
            body = await exchange.body(self._max_body_bytes)
            await self._generations.serve(exchange, PARSERS[path](body), body)
        else:
            await self._pass_through(exchange, method)

    async def _list_models(self, exchange: Exchange) -> None:
        content = {"object": "list", "data": list(self._units.models().values())}
        headers: RawHeaders = [
            (b"content-type", b"application/json"),
            (b"x-request-id", exchange.request_id.encode("ascii")),
        ]
        await exchange.answer(200, headers, msgspec.json.encode(content))

    async def _pass_through(self, exchange: Exchange, method: str) -> None:
        """Any other path: to the least loaded unit that serves the body's model, unread."""
        body = await exchange.body(self._max_body_bytes)
        unit = self._dispatcher.any_unit(_model_of(exchange, body))
        request_id = exchange.request_id
        headers = self._upstream.headers(
            exchange.scope["headers"], request_id, keep_auth=not self._api_keys
        )
        # How many tokens it takes is not known before the answer, and only if that is streamed.
        async with (
            self._limiter.reserved(exchange, 0, 0) as reservation,
            exchange.until_client_leaves(),
        ):
            try:
                opening = self._upstream.open(unit, method, exchange.target, headers, body)
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


def _request_id(scope: Scope) -> str:
    """The client's ``x-request-id`` if it is usable, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return uuid.uuid4().hex


def _model_of(exchange: Exchange, body: bytes) -> str | None:
    if b"json" not in (exchange.header(b"content-type") or b""):
        return None
    try:
        return msgspec.json.decode(body, type=_ModelOnly).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
