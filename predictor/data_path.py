"""The data path: every ``POST /predict*``, as a bare ASGI application.

A framework's routing and request objects cost more than the compiled what-if itself, so this path
uses none; ``app.py`` puts FastAPI beside it for everything else.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable

import msgspec
from starlette.types import Receive, Scope, Send

from predictor.errors import (
    InvalidQuestion,
    MethodNotAllowed,
    NotReady,
    Overloaded,
    PredictorError,
    QuestionTooLarge,
    SimulationFailed,
    StateUnavailable,
)
from predictor.metrics import SidecarMetrics
from predictor.questions import read_backlog, read_batch, read_single
from predictor.service import PredictionService
from wire.openai_errors import encode_error
from wire.prediction import BacklogPrediction, PredictBatchResponse, Prediction

logger = logging.getLogger(__name__)

MAX_BACKLOG = 10_000
"""Requests in a backlog; a queue as long as this takes any engine minutes."""
DEADLINE_HEADER = b"x-astrolabe-deadline-ms"

STATUS_OF: dict[type[PredictorError], tuple[int, str]] = {
    InvalidQuestion: (400, "invalid_request_error"),
    MethodNotAllowed: (405, "invalid_request_error"),
    QuestionTooLarge: (413, "invalid_request_error"),
    Overloaded: (503, "overloaded_error"),
    NotReady: (503, "service_unavailable_error"),
    StateUnavailable: (503, "service_unavailable_error"),
    SimulationFailed: (503, "service_unavailable_error"),
}
"""HTTP status and OpenAI error type; a subclass has those of its nearest listed base."""

_Answerer = Callable[[bytes, float | None], Awaitable[object]]


class DataPath:
    """Answers questions about one engine."""

    def __init__(
        self,
        service: PredictionService,
        metrics: SidecarMetrics,
        *,
        max_body_bytes: int,
        max_questions: int,
    ) -> None:
        """Bodies and batches beyond the limits are refused."""
        self._service = service
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._max_questions = max_questions
        self._encode = msgspec.json.Encoder().encode
        self._answerers: dict[str, _Answerer] = {
            "/predict": self._predict,
            "/predict/batch": self._predict_batch,
            "/predict/backlog": self._predict_backlog,
        }

    def serves(self, path: str) -> bool:
        """Whether a request for this path belongs here."""
        return path in self._answerers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; every error ends here."""
        status = 200
        try:
            body = self._encode(await self._answer(scope, receive))
        except _ClientGone:
            return
        except PredictorError as error:
            status, body = error_answer(error, self._metrics, scope["path"])
        except Exception:
            logger.exception("%s failed", scope["path"])
            self._metrics.errors.labels("internal").inc()
            status, body = 500, encode_error("internal error of the sidecar", "api_error")
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
        ]
        if status in (405, 413):
            # What is left of the body may still be on its way: the connection cannot be used again.
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> object:
        if scope["method"] != "POST":
            raise MethodNotAllowed(f"{scope['path']} takes POST, not {scope['method']}")
        body = await self._body(receive)
        return await self._answerers[scope["path"]](body, _deadline_s(scope))

    async def _predict(self, body: bytes, deadline_s: float | None) -> Prediction:
        answer = await self._service.answer(read_single(body), deadline_s)
        return answer.predictions[0]

    async def _predict_batch(self, body: bytes, deadline_s: float | None) -> PredictBatchResponse:
        return await self._service.answer(read_batch(body, self._max_questions), deadline_s)

    async def _predict_backlog(self, body: bytes, deadline_s: float | None) -> BacklogPrediction:
        return await self._service.drain(read_backlog(body, MAX_BACKLOG), deadline_s)

    async def _body(self, receive: Receive) -> bytes:
        """The whole body, read no further than the limit."""
        chunks: list[bytes] = []
        size, more_body = 0, True
        while more_body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientGone
            chunk: bytes = message.get("body", b"")
            more_body = message.get("more_body", False)
            size += len(chunk)
            if size > self._max_body_bytes:
                raise QuestionTooLarge(f"body: over the limit of {self._max_body_bytes} bytes")
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _ClientGone(Exception):
    """The client closed its connection before it had sent its question."""


def error_answer(error: PredictorError, metrics: SidecarMetrics, path: str) -> tuple[int, bytes]:
    """HTTP status and OpenAI error body; the error is counted."""
    listed = next(base for base in type(error).__mro__ if base in STATUS_OF)
    status, kind = STATUS_OF[listed]
    metrics.errors.labels(type(error).__name__).inc()
    if isinstance(error, SimulationFailed):
        logger.warning("%s: %s", path, error)
    return status, encode_error(str(error), kind, param=getattr(error, "param", None))


def _deadline_s(scope: Scope) -> float | None:
    """How long the client waits for the answer, if it says so."""
    header = next((value for name, value in scope["headers"] if name == DEADLINE_HEADER), None)
    if header is None:
        return None
    try:
        deadline_ms = float(header)
    except ValueError:
        deadline_ms = math.nan
    if not 0 <= deadline_ms < math.inf:
        name = DEADLINE_HEADER.decode()
        got = header.decode("latin-1")
        raise InvalidQuestion(f"{name}: must be milliseconds (got {got!r})", name)
    return deadline_ms / 1e3
