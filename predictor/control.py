"""Everything but predictions, on FastAPI: state, health, metrics, the API's description."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from starlette.types import Lifespan

from predictor.api_description import JSON, describe
from predictor.data_path import error_answer
from predictor.errors import PredictorError
from predictor.learning import LiveStepTime
from predictor.metrics import SidecarMetrics
from predictor.service import PredictionService
from wire.model_config import ReadModel


def control_app(
    service: PredictionService,
    metrics: SidecarMetrics,
    step_time: LiveStepTime,
    model: ReadModel,
    lifespan: Lifespan[FastAPI],
) -> FastAPI:
    """``/state``, ``/health``, ``/ready``, ``/metrics`` and ``/docs``."""
    shown_model = {
        "name": model.config.model_name,
        "completed_fields": model.completed,
        "completed_from": model.source or None,
    }
    app = FastAPI(
        title="Astrolabe predictor",
        summary="What would happen to a request that this engine got now?",
        lifespan=lifespan,
    )

    @app.get("/state")
    async def state() -> Response:
        """The engine's state as the next question would find it."""
        found = await service.read_state()
        shown = {
            "source": found.source,
            "age_ms": found.age_ms,
            "is_stale": found.is_stale,
            "step_time": {"origin": step_time.origin, "is_learnt": step_time.is_learnt},
            "snapshot": found.snapshot,
        }
        return Response(msgspec.json.encode(shown), media_type=JSON)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """The process is alive; what model it takes the engine's to be."""
        return {"status": "ok", "model": shown_model}

    @app.get("/ready")
    async def ready() -> dict[str, str]:
        """The backend is loaded and the engine's state can be read."""
        found = await service.check_ready()
        return {"status": "ready", "source": found.source}

    @app.get("/metrics")
    async def scrape() -> Response:
        """Prometheus text."""
        return Response(metrics.scrape(), media_type="text/plain; version=0.0.4")

    async def answer_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, PredictorError)
        status, body = error_answer(error, metrics, request.url.path)
        return Response(body, status, media_type=JSON)

    app.add_exception_handler(PredictorError, answer_error)
    describe(app)
    return app
