"""Puts the sidecar together: the data path beside a FastAPI application for everything else."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from predictor.accuracy_metrics import CalibrationMetrics, StepTimeMetrics
from predictor.calibration import Calibration
from predictor.control import control_app
from predictor.data_path import DataPath
from predictor.learning import LiveStepTime, StepTimeLearner
from predictor.metrics import SidecarMetrics
from predictor.populations import Populations
from predictor.service import PredictionService
from predictor.settings import ServeSettings
from predictor.setup import check_backend, make_backend, make_step_time
from predictor.state.metrics import limits_of
from predictor.state.plugin import PluginStateSource
from predictor.state.select import make_selector
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import num_gpu_blocks
from predictor.turns import Turns
from wire.model_config import read_model_config

logger = logging.getLogger(__name__)


class App:
    """``POST /predict*`` goes to the data path, everything else to FastAPI."""

    def __init__(self, settings: ServeSettings, clock: Callable[[], float]) -> None:
        self._model = read_model_config(settings.model_config_path, settings.hf_config)
        model = self._model.config
        gpu = find_gpu(settings.gpu)
        blocks = num_gpu_blocks(model, gpu)
        check_backend(settings.backend, settings.rules, model, gpu, settings.profile)
        self._limits = limits_of(model, blocks)
        metrics = SidecarMetrics()
        step_time = LiveStepTime(
            make_step_time(model, gpu, settings.profile), settings.profile or "roofline"
        )
        snapshot_address = settings.snapshot or f"shm:{settings.engine_id}"
        calibration = Calibration(time.monotonic) if settings.calibrate else None
        self._service = PredictionService(
            selector=make_selector(
                settings.state,
                snapshot_address=snapshot_address,
                engine_url=settings.engine_url,
                engine_id=settings.engine_id,
                model=model,
                num_gpu_blocks=blocks,
                step_time=step_time,
                clock=clock,
                stale_after_s=settings.max_state_age_s,
            ),
            load_backend=partial(
                make_backend, settings.backend, settings.rules, model, gpu, settings.profile
            ),
            metrics=metrics,
            populations=Populations(settings.default_output_tokens, clock),
            turns=Turns(settings.max_waiting, time.monotonic),
            calibration=calibration,
            timer=time.monotonic,
        )
        if calibration is not None:
            metrics.registry.register(CalibrationMetrics(calibration))
        self._learner: StepTimeLearner | None = None
        if settings.learn and settings.backend == "fast" and settings.state in ("auto", "plugin"):
            self._learner = StepTimeLearner(
                PluginStateSource(snapshot_address),
                step_time,
                model,
                self._service.use_step_time,
                time.monotonic,
            )
            metrics.registry.register(StepTimeMetrics(self._learner.figures))
        self._data_path = DataPath(
            self._service,
            metrics,
            max_body_bytes=settings.max_body_bytes,
            max_questions=settings.max_questions,
        )
        self._control = control_app(self._service, metrics, step_time, self._model, self._lifespan)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "http" and self._data_path.serves(scope["path"]):
            await self._data_path(scope, receive, send)
        else:
            await self._control(scope, receive, send)

    @asynccontextmanager
    async def _lifespan(self, control: FastAPI) -> AsyncIterator[None]:
        if self._model.note:
            logger.info("%s", self._model.note)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._warm_up_and_learn)
            try:
                yield
            finally:
                tasks.cancel_scope.cancel()
        await self._service.close()

    async def _warm_up_and_learn(self) -> None:
        """Whatever goes wrong here, the sidecar lives on."""
        try:
            await self._service.warm_up(self._limits)
            # What is there now stays; looking through it at each collection would delay answers.
            gc.collect()
            gc.freeze()
            if self._learner is not None:
                await self._learner.run()
        except Exception:
            logger.exception("the backend cannot be loaded, or step times are learnt no more")


def create_app(settings: ServeSettings, clock: Callable[[], float] = time.time) -> App:
    """The sidecar of one engine; ``clock`` gives UNIX seconds.

    Raises:
        ConfigError, ConfigurationError: a setting or file cannot be used; names key and value.
    """
    return App(settings, clock)
