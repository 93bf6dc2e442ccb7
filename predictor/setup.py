"""Makes the sidecar's replaceable parts from its settings."""

from __future__ import annotations

import importlib.util

from predictor.backends.base import Backend
from predictor.backends.fast import FastBackend
from predictor.errors import ConfigurationError
from predictor.settings import BackendName, Rules
from predictor.step_time.base import StepTimeModel
from predictor.step_time.gpus import Gpu
from predictor.step_time.profiles import load_profile
from predictor.step_time.roofline import RooflineStepTime
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import OperatorTimes, RooflineTimes
from wire.model_config import ModelConfig


def make_backend(
    name: BackendName, rules: Rules | None, model: ModelConfig, gpu: Gpu, profile: str | None
) -> Backend:
    """The backend of that name; None are its own rules and the data sheet's step times.

    Importing Vidur takes seconds and 200 MB, so that is done only where it is asked for.

    Raises:
        ConfigError: the profile cannot be used.
        ConfigurationError: the backend has no such rules, or Vidur is not installed.
    """
    check_backend(name, rules, model, gpu, profile)
    if name == "fast":
        return FastBackend(make_step_time(model, gpu, profile), rules or "vllm")
    from predictor.backends.vidur import VidurBackend

    return VidurBackend(model, gpu, _operator_times(model, gpu, profile))


def check_backend(
    name: BackendName, rules: Rules | None, model: ModelConfig, gpu: Gpu, profile: str | None
) -> None:
    """Find in a moment whether ``make_backend`` would refuse Vidur. Raises what it does."""
    if name == "fast":
        return
    if rules == "vllm":
        raise ConfigurationError("--rules vllm: the backend vidur has sarathi's only")
    for package in ("vidur", "pandas"):
        if importlib.util.find_spec(package) is None:
            raise ConfigurationError(
                f"--backend vidur: the package {package} is not installed; in Astrolabe's folder: "
                "pip install '.[vidur]', or bash exp/setup.sh --install-only --extras exp,vidur"
            )
    _operator_times(model, gpu, profile)


def _operator_times(model: ModelConfig, gpu: Gpu, profile: str | None) -> OperatorTimes:
    if profile is None:
        return RooflineTimes(model, gpu)
    step_time = load_profile(profile, model, gpu)
    if not isinstance(step_time, VidurStepTime):
        raise ConfigurationError(f"--profile {profile}: the backend vidur needs Vidur's kind")
    return step_time.times


def make_step_time(model: ModelConfig, gpu: Gpu, profile: str | None) -> StepTimeModel:
    """The model that step times start from.

    Raises:
        ConfigError: the profile cannot be used.
    """
    if profile is None:
        return RooflineStepTime(model, gpu)
    return load_profile(profile, model, gpu)
