"""Stands before the admin API: who may come in is asked before anything of a body is read."""

from __future__ import annotations

import hmac
import ipaddress
import os

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from global_scheduler.errors import Forbidden, GatewayError, Unauthorized, UnsupportedMediaType
from global_scheduler.exchange import ClientGone, Exchange

MAX_ADMIN_BODY_BYTES = 1 << 20


class AdminGuard:
    """Lets requests for ``/admin`` pass that may, with their bodies read; all others unread.

    In this order: the token, or where there is none, that the request comes from no other site's
    page; the body's size; a deadline for it; its kind.
    """

    def __init__(self, app: ASGIApp, token: str | None, *, is_loopback: bool) -> None:
        """Without a ``token`` only callers of a gateway that is bound to loopback may come in."""
        self._app = app
        self._token = token
        self._is_loopback = is_loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not is_admin(scope["path"]):
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, os.urandom(16).hex())
        try:
            self._check_caller(exchange)
            body = await exchange.body(MAX_ADMIN_BODY_BYTES)
            _check_kind(exchange, body)
        except ClientGone:
            return
        except GatewayError as error:
            await exchange.answer_error(error)
            return
        await self._app(scope, _again(body, receive), send)

    def _check_caller(self, exchange: Exchange) -> None:
        try:
            check_caller(exchange, self._token, is_loopback=self._is_loopback)
        except GatewayError:
            if _has_body(exchange):  # which stays unread
                exchange.standing_headers.append((b"connection", b"close"))
            raise


def is_admin(path: str) -> bool:
    """Whether the path belongs to the admin API; the page at ``/admin`` holds nothing."""
    return path.startswith("/admin/")


def check_caller(exchange: Exchange, token: str | None, *, is_loopback: bool) -> None:
    """Whether a request may use the admin API.

    Raises:
        Unauthorized: it does not bring the token.
        Forbidden: there is none, and the gateway is not bound to loopback, or the request was made
            by a page of another site.
    """
    if token is None:
        if not is_loopback:
            raise Forbidden(
                "the admin API needs --admin-token: the gateway is not bound to loopback"
            )
        _check_site(exchange)
        return
    scheme, _, given = (exchange.header(b"authorization") or b"").partition(b" ")
    if scheme.lower() != b"bearer" or not hmac.compare_digest(given, token.encode()):
        raise Unauthorized("missing or wrong admin token", code="invalid_admin_token")


def _check_site(exchange: Exchange) -> None:
    """Browsers name the page's site, which a page of another one cannot help; a page whose own name
    has been made to lead here comes with that name as host. No browser leaves the host out."""
    given = exchange.header(b"host")
    host = (given or b"").lower()
    if given is not None and not _is_this_machine(host.decode("latin-1")):
        raise Forbidden(f"without --admin-token, host must be this machine, got {host!r}")
    origin = exchange.header(b"origin")
    if origin is not None and origin.lower().partition(b"://")[2] != host:
        raise Forbidden(f"without --admin-token, origin must be the gateway's own, got {origin!r}")


def _is_this_machine(host: str) -> bool:
    """Whether a ``Host`` header, port and all, names the loopback interface."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _has_body(exchange: Exchange) -> bool:
    length = exchange.header(b"content-length") or b"0"
    return length != b"0" or exchange.header(b"transfer-encoding") is not None


def _check_kind(exchange: Exchange, body: bytes) -> None:
    """Pages can send other kinds to other sites unasked."""
    kind = (exchange.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if body and kind != b"application/json":
        raise UnsupportedMediaType(
            f"content-type must be application/json, got {kind.decode('latin-1')!r}",
            param="content-type",
        )


def _again(body: bytes, receive: Receive) -> Receive:
    """Receives the body that was read, then what really comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def received() -> Message:
        return messages.pop() if messages else await receive()

    return received
