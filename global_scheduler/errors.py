"""Errors that reach a client, each with its HTTP status.

GatewayError
├── BadRequest         400  the body cannot be used
├── Unauthorized       401  missing or wrong API key
├── Forbidden          403  the admin API is closed to this caller
├── NotFound           404  no such path, unit or model
├── Conflict           409  a unit of that name exists
├── BodyTooLarge       413
├── RequestTimeout     408  the client did not finish sending its body
├── UnsupportedMediaType  415  the body is of another kind than it must be
├── TooManyRequests    429  refused for now: queues full, waited too long, goals, quota
├── UpstreamFailed     502  every unit that was tried failed
└── Unavailable        503
    ├── QuotasUnknown       nobody knows what the key may still use
    └── NoUnitAvailable     no healthy unit serves the model
"""

from __future__ import annotations

import math
from typing import Literal

from wire.openai_errors import encode_error

Rejection = Literal["queue_full", "queue_timeout", "slo", "quota"]
"""Why a request is refused for now, as the header ``x-astrolabe-rejected`` says."""


class GatewayError(Exception):
    """An error with an OpenAI-style body."""

    status = 500
    type = "api_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code

    def body(self) -> bytes:
        """The OpenAI error JSON."""
        return encode_error(self.message, self.type, self.param, self.code)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """What its answer carries beside the body."""
        return []


class BadRequest(GatewayError):
    """The body cannot be used; ``param`` names the field."""

    status = 400
    type = "invalid_request_error"


class Unauthorized(GatewayError):
    """The API key or admin token is missing or wrong."""

    status = 401
    type = "authentication_error"


class Forbidden(GatewayError):
    """The caller may not use this part of the API."""

    status = 403
    type = "permission_error"


class NotFound(GatewayError):
    """No such path, unit or model."""

    status = 404
    type = "invalid_request_error"


class RequestTimeout(GatewayError):
    """The client did not send its body in time."""

    status = 408
    type = "invalid_request_error"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """The rest of the body is still on its way: the connection cannot be used again."""
        return [(b"connection", b"close")]


class Conflict(GatewayError):
    """The name is taken."""

    status = 409
    type = "invalid_request_error"


class BodyTooLarge(GatewayError):
    """The body exceeds the configured limit."""

    status = 413
    type = "invalid_request_error"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """As for ``RequestTimeout``."""
        return [(b"connection", b"close")]


class UnsupportedMediaType(GatewayError):
    """The body is of another kind than it must be."""

    status = 415
    type = "invalid_request_error"


class TooManyRequests(GatewayError):
    """Refused for now; ``retry_after_s`` says when to try again."""

    status = 429
    type = "rate_limit_error"

    def __init__(self, message: str, reason: Rejection, retry_after_s: float) -> None:
        super().__init__(message, code="rate_limit_exceeded" if reason == "quota" else reason)
        self.reason = reason
        self.retry_after_s = max(1, math.ceil(retry_after_s))

    def headers(self) -> list[tuple[bytes, bytes]]:
        """When to try again, and why not now."""
        return [
            (b"retry-after", b"%d" % self.retry_after_s),
            (b"x-astrolabe-rejected", self.reason.encode("ascii")),
        ]


class UpstreamFailed(GatewayError):
    """Every unit that was tried failed before its first byte."""

    status = 502


class Unavailable(GatewayError):
    """What is needed is not there now; it may be back soon."""

    status = 503
    type = "overloaded_error"

    def headers(self) -> list[tuple[bytes, bytes]]:
        """When to try again."""
        return [(b"retry-after", b"1")]


class QuotasUnknown(Unavailable):
    """The store of quotas does not answer, and requests are to wait for it."""


class NoUnitAvailable(Unavailable):
    """No healthy unit can take the request now."""
