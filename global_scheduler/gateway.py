"""The data path: every ``/v1/*`` request, as a bare ASGI application.

A framework's routing and request objects cost more than the routing decision itself, so this path
uses none; ``app.py`` puts FastAPI beside it for everything else.
"""

from __future__ import annotations

import hmac
import logging
import os
import re
from collections.abc import Awaitable, Callable

from starlette.types import Receive, Scope, Send

from global_scheduler.bodies import GenerationRequest, parse_chat, parse_completion
from global_scheduler.errors import BadRequest, GatewayError, NotFound, Unauthorized
from global_scheduler.exchange import CLIENT_CLOSED_REQUEST, ClientGone, Exchange, check_host

logger = logging.getLogger(__name__)

REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
PARSERS: dict[str, Callable[[bytes], GenerationRequest]] = {
    "/v1/completions": parse_completion,
    "/v1/chat/completions": parse_chat,
}
Generate = Callable[[Exchange, GenerationRequest, bytes], Awaitable[None]]
"""Answers a generation request, parsed and as it came; raises GatewayError or ClientGone."""


class Gateway:
    """The front door: who may come in, and where to."""

    def __init__(
        self,
        generate: Generate,
        others: Callable[[Exchange], Awaitable[None]],
        count_refused: Callable[[int], None],
        *,
        max_body_bytes: int,
        api_keys: tuple[str, ...],
    ) -> None:
        """Without ``api_keys`` everyone may come in, and clients' keys go on to the engines.

        ``others`` answers requests that are no generations. ``count_refused`` is told the status of
        each answer that no unit has given.
        """
        self._generate = generate
        self._others = others
        self._count_refused = count_refused
        self._max_body_bytes = max_body_bytes
        self._api_keys = [key.encode() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; every error ends here."""
        exchange = Exchange(scope, receive, send, _request_id(scope))
        try:
            check_host(scope)
            self._check_key(exchange)
            await self._route(exchange)
        except ClientGone:
            self._count_refused(CLIENT_CLOSED_REQUEST)
        except GatewayError as error:
            self._count_refused(error.status)
            await exchange.answer_error(error)
        except Exception:
            logger.exception("request %s failed", exchange.request_id)
            self._count_refused(GatewayError.status)
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
        if path not in PARSERS:
            await self._others(exchange)
        elif method != "POST":
            raise BadRequest(f"{path} takes POST, not {method}")
        else:
            body = await exchange.body(self._max_body_bytes)
            await self._generate(exchange, PARSERS[path](body), body)


def _request_id(scope: Scope) -> str:
    """The client's ``x-request-id`` if it is usable, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            return str(value, "ascii")
    return os.urandom(16).hex()
