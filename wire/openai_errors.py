"""OpenAI's error JSON, which every service of Astrolabe answers with."""

from __future__ import annotations

import msgspec


class ErrorDetail(msgspec.Struct, kw_only=True):
    """The inner object of an OpenAI error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(msgspec.Struct, kw_only=True):
    """``{"error": {"message", "type", "param", "code"}}``."""

    error: ErrorDetail


def encode_error(
    message: str, type: str, param: str | None = None, code: str | None = None
) -> bytes:
    """The JSON bytes of an OpenAI error."""
    detail = ErrorDetail(message=message, type=type, param=param, code=code)
    return msgspec.json.encode(ErrorBody(error=detail))
