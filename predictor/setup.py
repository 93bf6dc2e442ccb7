"""Makes the sidecar's replaceable parts from its settings."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

from predictor.backends.base import Backend
from predictor.errors import ConfigurationError
from predictor.settings import ServeSettings
from predictor.state.base import StateSource
from predictor.state.metrics import MetricsStateSource
from predictor.state.plugin import PluginStateSource
from predictor.state.select import StateSelector
from predictor.step_time.gpus import Gpu
from predictor.step_time.vidur_profile import read_profile
from predictor.step_time.vidur_tables import OperatorTimes, RooflineTimes
from wire.model_config import ModelConfig


def backend_loader(settings: ServeSettings, model: ModelConfig, gpu: Gpu) -> Callable[[], Backend]:
    """What loads the backend; importing Vidur takes seconds, so that is left to the caller.

    Raises:
        ConfigError: the profile cannot be used.
        ConfigurationError: Vidur is not installed.
    """
    if importlib.util.find_spec("vidur") is None:
        raise ConfigurationError("Vidur is not installed: pip install 'astrolabe-llm[vidur]'")
    times: OperatorTimes = RooflineTimes(model, gpu)
    if settings.profile is not None:
        times = read_profile(settings.profile, model)

    def load() -> Backend:
        # Some seconds and a hundred megabytes, which must not hold up the HTTP server's start.
        from predictor.backends.vidur import VidurBackend

        return VidurBackend(model, gpu, times)

    return load


def state_selector(
    settings: ServeSettings, model: ModelConfig, num_gpu_blocks: int, clock: Callable[[], float]
) -> StateSelector:
    """The state sources that the settings ask for, best first. Raises ConfigurationError."""
    sources: list[StateSource] = []
    if settings.state in ("auto", "plugin"):
        sources.append(PluginStateSource(settings.snapshot or f"shm:{settings.engine_id}"))
    if settings.state in ("auto", "metrics"):
        sources.append(
            MetricsStateSource(
                settings.engine_url, model, settings.engine_id, num_gpu_blocks, clock
            )
        )
    return StateSelector(sources, clock)
