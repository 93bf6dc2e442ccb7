"""Describes the data path in FastAPI's OpenAPI page, for the framework does not see it."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI

from predictor.questions import SingleQuestion
from wire.openai_errors import ErrorBody
from wire.prediction import (
    BacklogPrediction,
    BacklogRequest,
    PredictBatchRequest,
    PredictBatchResponse,
    Prediction,
)

JSON = "application/json"

_PATHS: dict[str, tuple[str, type, type]] = {
    "/predict": (
        "What would one request meet? Latencies count from now.",
        SingleQuestion,
        Prediction,
    ),
    "/predict/batch": (
        "What would each of some requests meet if it alone came?",
        PredictBatchRequest,
        PredictBatchResponse,
    ),
    "/predict/backlog": (
        "How long would the engine work if all of these requests came now?",
        BacklogRequest,
        BacklogPrediction,
    ),
}


def describe(app: FastAPI) -> None:
    """Add the data path to what ``/openapi.json`` and ``/docs`` show."""
    paths = {
        path: {"post": _operation(summary, question, answer)}
        for path, (summary, question, answer) in _PATHS.items()
    }
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        described = plain()
        described["paths"] = paths | described["paths"]
        return described

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way of extending it


def _operation(summary: str, question: type, answer: type) -> dict[str, Any]:
    return {
        "summary": summary,
        "requestBody": {"required": True, "content": _content(question)},
        "responses": {
            "200": {"description": "The answer", "content": _content(answer)},
            "default": {"description": "OpenAI's error JSON", "content": _content(ErrorBody)},
        },
    }


def _content(type_: type) -> dict[str, Any]:
    """A type's JSON schema with what it refers to inlined, as OpenAPI wants no local ``$defs``."""
    (schema,), components = msgspec.json.schema_components([type_])
    return {JSON: {"schema": _inline(schema, components)}}


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"].rpartition("/")[2]], components)
    return {key: _inline(value, components) for key, value in schema.items()}
