"""Requests to engines, and the headers that cross the gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from global_scheduler.units import Unit

CONNECT_TIMEOUT_S = 5.0
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, section 7.6.1."""
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"x-request-id", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"x-request-id", b"content-length"}
AUTOMATIC_HEADERS = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")

RawHeaders = list[tuple[bytes, bytes]]


class UnitFailed(Exception):
    """A unit failed before the first byte of its answer. ``refused``: it does not even listen."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Upstream:
    """Opens requests on engines over one shared session."""

    def __init__(
        self, session: aiohttp.ClientSession, *, read_timeout_s: float, engine_api_key: str | None
    ) -> None:
        self._session = session
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s
        )
        self._authorization = f"Bearer {engine_api_key}" if engine_api_key else None

    def headers(
        self, client_headers: Iterable[tuple[bytes, bytes]], request_id: str, *, keep_auth: bool
    ) -> CIMultiDict[str]:
        """The client's headers as the engine gets them."""
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in client_headers
            if name not in NOT_FORWARDED and (keep_auth or name != b"authorization")
        )
        headers["x-request-id"] = request_id
        if self._authorization is not None:
            headers["authorization"] = self._authorization
        return headers

    async def open(
        self, unit: Unit, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> aiohttp.ClientResponse:
        """Send a request and wait for the response's head.

        Raises:
            UnitFailed: no head came.
        """
        try:
            return await self._request(unit, method, target, headers, body)
        except aiohttp.ClientConnectorError as error:
            raise UnitFailed(f"cannot connect: {error.strerror}", refused=True) from error
        except asyncio.TimeoutError as error:
            raise UnitFailed("no answer in time") from error
        except aiohttp.ClientError as error:
            raise UnitFailed(str(error) or type(error).__name__) from error

    async def _request(
        self, unit: Unit, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> aiohttp.ClientResponse:
        url = URL(unit.engine_url + target, encoded=True)
        for is_retry in (False, True):
            try:
                return await self._session.request(
                    method,
                    url,
                    data=body or None,
                    headers=headers,
                    timeout=self._timeout,
                    allow_redirects=False,
                    skip_auto_headers=AUTOMATIC_HEADERS,
                )
            except aiohttp.ServerDisconnectedError:
                # The engine closed an idle kept-alive connection just as it was taken up again.
                if is_retry:
                    raise
        raise AssertionError("unreachable")


def returned_headers(response: aiohttp.ClientResponse) -> RawHeaders:
    """The engine's headers as the client gets them."""
    return [
        (lowered, value)
        for name, value in response.raw_headers
        if (lowered := name.lower()) not in NOT_RETURNED
    ]
