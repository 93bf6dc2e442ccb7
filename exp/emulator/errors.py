"""Errors that the emulator answers with, as vLLM words and numbers them.

ApiError
├── BadRequestError (400)
└── ModelNotFoundError (404)
"""

from __future__ import annotations

import msgspec


class ApiError(Exception):
    """An error that reaches the client (``vllm/entrypoints/serve/exception_handling``, 0.32)."""

    status = 500
    type = "InternalServerError"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    def body(self) -> bytes:
        """OpenAI's error JSON; like vLLM, with the status as ``code``."""
        return error_body(self.message, self.type, self.status, self.param)


class BadRequestError(ApiError):
    """The request is malformed or asks for something that this server cannot do."""

    status = 400
    type = "BadRequestError"


class ModelNotFoundError(ApiError):
    """The request names a model that is not served here."""

    status = 404
    type = "NotFoundError"

    def __init__(self, model: str) -> None:
        super().__init__(f"The model `{model}` does not exist.", param="model")


def error_body(message: str, type: str, code: int, param: str | None = None) -> bytes:
    """The JSON bytes of an error."""
    detail = {"message": message, "type": type, "param": param, "code": code}
    return msgspec.json.encode({"error": detail})
