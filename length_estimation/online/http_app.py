"""The estimator over HTTP, for whoever runs no gateway of Astrolabe."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

import anyio
import msgspec
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from length_estimation.online.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidQuestion,
    NotEstimated,
)
from length_estimation.online.estimator import OnlineEstimator
from length_estimation.online.metrics import EstimatorMetrics
from wire.length import LengthEstimate, LengthQuestion
from wire.openai_errors import encode_error

BODY_DEADLINE_S = 10.0
MAX_QUESTIONS = 64
JSON = "application/json"
Body = TypeVar("Body")


class Questions(msgspec.Struct):
    """The body of ``POST /estimate/batch``."""

    questions: list[LengthQuestion]


class Answers(msgspec.Struct):
    """Its answer; null where there is no estimate in time."""

    estimates: list[LengthEstimate | None]


class Outcome(msgspec.Struct):
    """The body of ``POST /observe``."""

    question: LengthQuestion
    num_output_tokens: int


class Learnt(msgspec.Struct):
    """Its answer; false where the question has not been asked lately, or the number is absurd."""

    learnt: bool


def create_app(estimator: OnlineEstimator, *, max_body_bytes: int) -> FastAPI:
    """``/estimate``, ``/estimate/batch``, ``/observe``, ``/health`` and ``/metrics``."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await estimator.start()
        try:
            yield
        finally:
            await estimator.close()

    app = FastAPI(title="Astrolabe length estimator", lifespan=lifespan)
    registry = CollectorRegistry()
    registry.register(EstimatorMetrics(estimator.figures))

    @app.post("/estimate")
    async def estimate(request: Request) -> Response:
        """A LengthQuestion; answers a LengthEstimate."""
        question = await read(request, LengthQuestion, max_body_bytes)
        return _json(await estimator.estimate(question))

    @app.post("/estimate/batch")
    async def estimate_batch(request: Request) -> Response:
        """``{"questions": [...]}``; answers ``{"estimates": [...]}``, null where there is none."""
        body = await read(request, Questions, max_body_bytes)
        return _json(Answers(await _estimates(estimator, body.questions)))

    @app.post("/observe")
    async def observe(request: Request) -> Response:
        """``{"question": ..., "num_output_tokens": n}``; answers ``{"learnt": true}``."""
        outcome = await read(request, Outcome, max_body_bytes)
        return _json(Learnt(estimator.observe(outcome.question, outcome.num_output_tokens)))

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive and its model loaded."""
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus text."""
        return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")

    app.add_exception_handler(NotEstimated, _answer_not_estimated)
    app.add_exception_handler(HTTPException, _answer_http_error)
    return app


async def read(request: Request, kind: type[Body], max_body_bytes: int) -> Body:
    """The request's body, checked.

    Raises:
        InvalidQuestion: too large, too slow, or not of this kind; names the field.
    """
    body = bytearray()
    with anyio.move_on_after(BODY_DEADLINE_S) as deadline:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_body_bytes:
                raise BodyTooLarge(f"body: over the limit of {max_body_bytes} bytes")
    if deadline.cancelled_caught:
        raise BodyTooSlow(f"body: not there after {BODY_DEADLINE_S:g} s")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidQuestion(f"body: {error}") from error


async def _estimates(
    estimator: OnlineEstimator, questions: list[LengthQuestion]
) -> list[LengthEstimate | None]:
    if len(questions) > MAX_QUESTIONS:
        raise InvalidQuestion(f"questions: at most {MAX_QUESTIONS} (got {len(questions)})")
    estimates: list[LengthEstimate | None] = [None] * len(questions)

    async def answer(index: int) -> None:
        estimates[index] = await estimator.try_estimate(questions[index])

    async with anyio.create_task_group() as tasks:
        for index in range(len(questions)):
            tasks.start_soon(answer, index)
    return estimates


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON)


async def _answer_not_estimated(request: Request, error: Exception) -> Response:
    assert isinstance(error, NotEstimated)
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    body = encode_error(str(error), kind, code=error.reason)
    return Response(body, error.status, media_type=JSON)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = encode_error(
        f"{request.method} {request.url.path}: {error.detail}", "invalid_request_error"
    )
    return Response(body, error.status_code, error.headers, media_type=JSON)
