"""Puts the sidecar together: the data path beside a FastAPI application for everything else."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.types import Receive, Scope, Send

from predictor.api_description import describe
from predictor.data_path import DataPath, error_answer
from predictor.errors import PredictorError
from predictor.metrics import SidecarMetrics
from predictor.populations import Populations
from predictor.service import PredictionService
from predictor.settings import ServeSettings
from predictor.setup import backend_loader, state_selector
from predictor.state.metrics import limits_of
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import num_gpu_blocks
from predictor.turns import Turns
from wire.model_config import load_model_config
from wire.snapshot import EngineLimits

logger = logging.getLogger(__name__)

JSON = "application/json"


class App:
    """``POST /predict*`` goes to the data path, everything else to FastAPI."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float]) -> None:
        model = load_model_config(settings.model_config_path)
        gpu = find_gpu(settings.gpu)
        blocks = num_gpu_blocks(model, gpu)
        self._limits = limits_of(model, blocks)
        self._metrics = SidecarMetrics()
        self._service = PredictionService(
            selector=state_selector(settings, model, blocks, clock),
            load_backend=backend_loader(settings, model, gpu),
            metrics=self._metrics,
            populations=Populations(settings.default_output_tokens, clock),
            turns=Turns(settings.max_waiting, time.monotonic),
            timer=time.monotonic,
        )
        self._data_path = DataPath(
            self._service,
            self._metrics,
            max_body_bytes=settings.max_body_bytes,
            max_questions=settings.max_questions,
        )
        self._control = _control(self._service, self._metrics, self._limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and self._data_path.serves(scope["path"]):
            await self._data_path(scope, receive, send)
        else:
            await self._control(scope, receive, send)


def create_app(settings: ServeSettings, clock: Callable[[], float] = time.time) -> App:
    """The sidecar of one engine; ``clock`` gives UNIX seconds.

    Raises:
        ConfigError, ConfigurationError: a setting or file cannot be used; names key and value.
    """
    return App(settings, clock)


def _control(service: PredictionService, metrics: SidecarMetrics, limits: EngineLimits) -> FastAPI:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warm_up = asyncio.create_task(_warm_up(service, limits))
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

    async def answer_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PredictorError)
        status, body = error_answer(error, metrics, request.url.path)
        return Response(body, status, media_type=JSON)

    app.add_exception_handler(PredictorError, answer_error)
    _add_observation(app, service, metrics)
    describe(app)
    return app


def _add_observation(app: FastAPI, service: PredictionService, metrics: SidecarMetrics) -> None:
    @app.get("/state")
    async def state() -> Response:
        """The engine's state as the next question would find it."""
        found = await service.read_state()
        shown = {"source": found.source, "age_ms": found.age_ms, "snapshot": found.snapshot}
        return Response(msgspec.json.encode(shown), media_type=JSON)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """The process is alive."""
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """The backend is loaded and the engine's state can be read."""
        found = await service.check_ready()
        return {"status": "ready", "source": found.source}

    @app.get("/metrics")
    async def scrape() -> Response:
        """Prometheus text."""
        return Response(metrics.scrape(), media_type="text/plain; version=0.0.4")


async def _warm_up(service: PredictionService, limits: EngineLimits) -> None:
    await service.warm_up(limits)
    # What is there now stays; looking through it at each collection would only delay answers.
    gc.collect()
    gc.freeze()


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        logger.error("the backend cannot be loaded, /ready stays 503", exc_info=error)
