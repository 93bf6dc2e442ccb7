"""The sidecar's HTTP interface."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response

from predictor.errors import (
    InvalidQuestion,
    NotReady,
    Overloaded,
    PredictorError,
    QuestionTooLarge,
    SimulationFailed,
    StateUnavailable,
)
from predictor.metrics import SidecarMetrics
from predictor.questions import SingleQuestion, read_batch, read_single
from predictor.service import PredictionService
from predictor.settings import ServeSettings
from predictor.setup import backend_loader, state_selector
from predictor.state.metrics import limits_of
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import num_gpu_blocks
from wire.model_config import load_model_config
from wire.openai_errors import encode_error
from wire.prediction import PredictBatchRequest, PredictBatchResponse, Prediction

logger = logging.getLogger(__name__)

DEADLINE_HEADER = "x-astrolabe-deadline-ms"
JSON = "application/json"

STATUS_OF: dict[type[PredictorError], tuple[int, str]] = {
    InvalidQuestion: (400, "invalid_request_error"),
    QuestionTooLarge: (413, "invalid_request_error"),
    Overloaded: (503, "overloaded_error"),
    NotReady: (503, "service_unavailable_error"),
    StateUnavailable: (503, "service_unavailable_error"),
    SimulationFailed: (503, "service_unavailable_error"),
}
"""HTTP status and OpenAI error type; a subclass has those of its nearest listed base."""


def create_app(settings: ServeSettings, clock: Callable[[], float] = time.time) -> FastAPI:
    """The sidecar of one engine; ``clock`` gives UNIX seconds.

    Raises:
        ConfigError, ConfigurationError: a setting or file cannot be used; names key and value.
    """
    model = load_model_config(settings.model_config_path)
    gpu = find_gpu(settings.gpu)
    blocks = num_gpu_blocks(model, gpu)
    metrics = SidecarMetrics()
    load_backend = backend_loader(settings, model, gpu)
    selector = state_selector(settings, model, blocks, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = PredictionService(
            selector=selector,
            load_backend=load_backend,
            metrics=metrics,
            max_waiting=settings.max_waiting,
            default_output_tokens=settings.default_output_tokens,
            clock=clock,
            timer=time.monotonic,
        )
        app.state.service = service
        warm_up = asyncio.create_task(service.warm_up(limits_of(model, blocks)))
        warm_up.add_done_callback(_log_failure)
        try:
            yield
        finally:
            warm_up.cancel()
            await service.close()

    app = FastAPI(
        title="Astrolabe predictor",
        summary="What would happen to a request that this engine got now?",
        lifespan=lifespan,
    )
    app.add_exception_handler(PredictorError, _error_handler(metrics))
    _add_predictions(app, settings)
    _add_observation(app, metrics)
    return app


def _add_predictions(app: FastAPI, settings: ServeSettings) -> None:
    # Bodies are decoded by msgspec into the types of `wire`, not by the framework.
    @app.post("/predict", openapi_extra=_describe(SingleQuestion, Prediction))
    async def predict(request: Request) -> Response:
        """What would one request meet? Latencies count from now."""
        batch = read_single(await _body(request, settings.max_body_bytes))
        answer = await _service(request).answer(batch, _deadline_s(request))
        return _json(answer.predictions[0])

    @app.post("/predict/batch", openapi_extra=_describe(PredictBatchRequest, PredictBatchResponse))
    async def predict_batch(request: Request) -> Response:
        """What would each of some requests meet if it alone came?"""
        body = await _body(request, settings.max_body_bytes)
        batch = read_batch(body, settings.max_questions)
        return _json(await _service(request).answer(batch, _deadline_s(request)))


def _add_observation(app: FastAPI, metrics: SidecarMetrics) -> None:
    @app.get("/state")
    async def state(request: Request) -> Response:
        """The engine's state as the next question would find it."""
        found = await _service(request).read_state()
        return _json(
            {
                "source": found.source,
                "age_ms": found.age_ms,
                "snapshot": found.snapshot,
            }
        )

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready(request: Request) -> dict[str, str]:
        """The backend is loaded and the engine's state can be read."""
        found = await _service(request).check_ready()
        return {"status": "ready", "source": found.source}

    @app.get("/metrics")
    async def scrape() -> Response:
        """Prometheus text."""
        return Response(metrics.scrape(), media_type="text/plain; version=0.0.4")


def _service(request: Request) -> PredictionService:
    service: PredictionService = request.app.state.service
    return service


async def _body(request: Request, max_bytes: int) -> bytes:
    """The whole body, read no further than the limit."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise QuestionTooLarge(f"body: over the limit of {max_bytes} bytes")
    return bytes(body)


def _deadline_s(request: Request) -> float | None:
    """How long the client waits for the answer, if it says so."""
    header = request.headers.get(DEADLINE_HEADER)
    if header is None:
        return None
    try:
        deadline_ms = float(header)
    except ValueError:
        deadline_ms = math.nan
    if not 0 <= deadline_ms < math.inf:
        raise InvalidQuestion(
            f"{DEADLINE_HEADER}: must be milliseconds (got {header!r})", DEADLINE_HEADER
        )
    return deadline_ms / 1e3


def _error_handler(metrics: SidecarMetrics) -> Callable[[Request, Exception], Response]:
    def handle(request: Request, error: Exception) -> Response:
        listed = next(base for base in type(error).__mro__ if base in STATUS_OF)
        status, kind = STATUS_OF[listed]
        metrics.errors.labels(type(error).__name__).inc()
        if isinstance(error, SimulationFailed):
            logger.warning("%s %s: %s", request.method, request.url.path, error)
        body = encode_error(str(error), kind, param=getattr(error, "param", None))
        return Response(body, status, media_type=JSON)

    return handle


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the backend cannot be loaded, /ready stays 503", exc_info=error)


def _json(answer: object) -> Response:
    return Response(msgspec.json.encode(answer), media_type=JSON)


def _describe(question: type, answer: type) -> dict[str, Any]:
    """The OpenAPI description of a body and its answer, which the framework does not see."""
    return {
        "requestBody": {"required": True, "content": {JSON: {"schema": _schema(question)}}},
        "responses": {"200": {"content": {JSON: {"schema": _schema(answer)}}}},
    }


def _schema(type_: type) -> dict[str, Any]:
    """A type's JSON schema with what it refers to inlined, as OpenAPI wants no local ``$defs``."""
    (schema,), components = msgspec.json.schema_components([type_])
    inlined: dict[str, Any] = _inline(schema, components)
    return inlined


def _inline(schema: Any, components: dict[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_inline(part, components) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inline(components[schema["$ref"].rpartition("/")[2]], components)
    return {key: _inline(value, components) for key, value in schema.items()}
