"""Requests to engines, and the headers that cross the gateway."""

from __future__ import annotations

from global_scheduler.connection_pool import ConnectionPool, origin_of
from global_scheduler.engine_http import BrokenOff, RawHeaders, Response

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 4.0
"""Shorter than uvicorn's and vLLM's 5 s, so that the gateway closes idle connections first."""
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""RFC 9110, section 7.6.1. So are the headers that ``Connection`` names."""
NOT_FORWARDED = HOP_BY_HOP | {b"host", b"content-length", b"x-request-id", b"expect"}
NOT_RETURNED = HOP_BY_HOP | {b"x-request-id", b"content-length"}
REDIRECTS = frozenset(range(300, 400)) - {304}
"""Not Modified answers a condition of the client's."""


class UnitFailed(Exception):
    """A unit failed before the first byte of its answer. ``refused``: it does not even listen."""

    def __init__(self, reason: str, *, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Upstream:
    """Opens requests on engines over connections that all requests share."""

    def __init__(
        self,
        pool: ConnectionPool,
        *,
        read_timeout_s: float,
        engine_api_key: str | None,
        forward_authorization: bool,
    ) -> None:
        """Engines get ``engine_api_key``, else the client's own where that is forwarded."""
        self._pool = pool
        self._read_timeout_s = read_timeout_s
        self._authorization = f"Bearer {engine_api_key}".encode() if engine_api_key else None
        self._keep_auth = forward_authorization and not engine_api_key

    def headers(self, client_headers: RawHeaders, request_id: str) -> RawHeaders:
        """The client's headers as the engine gets them."""
        headers = [
            header
            for header in without(NOT_FORWARDED, client_headers)
            if self._keep_auth or header[0] != b"authorization"
        ]
        headers.append((b"x-request-id", request_id.encode("ascii")))
        if self._authorization is not None:
            headers.append((b"authorization", self._authorization))
        return headers

    async def open(
        self, engine_url: str, method: str, target: str, headers: RawHeaders, body: bytes
    ) -> Response:
        """Send a request and wait for the response's head.

        Raises:
            UnitFailed: no head came, or one that redirects: clients have no way to engines, and
                the gateway follows nobody.
        """
        response = await self._ask(engine_url, method, target, headers, body)
        if response.status in REDIRECTS:
            async with response:
                raise UnitFailed(f"HTTP {response.status}: redirects of engines are not followed")
        return response

    async def _ask(
        self, engine_url: str, method: str, target: str, headers: RawHeaders, body: bytes
    ) -> Response:
        try:
            return await self._pool.request(
                origin_of(engine_url),
                method,
                target,
                headers,
                body,
                silence_s=self._read_timeout_s,
            )
        except BrokenOff as error:
            raise UnitFailed(str(error)) from error
        except TimeoutError as error:
            raise UnitFailed("no connection in time") from error
        except (OSError, ValueError) as error:
            raise UnitFailed(f"cannot connect: {error}", refused=True) from error


def returned_headers(response: Response) -> RawHeaders:
    """The engine's headers as the client gets them."""
    return without(NOT_RETURNED, response.raw_headers)


def without(dropped: frozenset[bytes], headers: RawHeaders) -> RawHeaders:
    """The headers that go on: neither dropped nor named as their sender's own by ``Connection``."""
    for name, value in headers:
        if name == b"connection":
            dropped |= {option.strip() for option in value.lower().split(b",")}
    return [header for header in headers if header[0] not in dropped]
