"""Saved step times: ``config/profiles/NAME.json``, of either of two kinds, and Vidur's folders.

``fitted`` holds the coefficients that were learnt from an engine, ``vidur`` the measured points of
a Vidur profile. Both name the model and the GPU that they are true for.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from predictor.step_time.base import StepTimeModel
from predictor.step_time.fitted import FEATURES, FittedStepTime
from predictor.step_time.gpus import Gpu
from predictor.step_time.online import OnlineStepTime
from predictor.step_time.vidur_profile import Curve, CurveFamily, ProfileTimes, read_profile
from predictor.step_time.vidur_step_time import VidurStepTime
from wire.model_config import ConfigError, ModelConfig, load_config

PROFILES = Path("config/profiles")
"""Where a profile that is given by its name lies."""

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _Head(BaseModel):
    """What every profile begins with."""

    version: Literal[1]
    kind: Literal["fitted", "vidur"]


class _Profile(_Strict):
    version: Literal[1] = 1
    model_name: str
    gpu: str
    tensor_parallel_size: int = Field(ge=1)
    measured_on: str = Field(description="the machine, and when")


class FittedProfile(_Profile):
    """What was learnt from a running engine."""

    kind: Literal["fitted"] = "fitted"
    num_steps: int = Field(ge=0)
    mape: Number = Field(
        description="mean relative error of the last steps before they were learnt"
    )
    knot: int = Field(ge=0)
    seconds_per: dict[str, Number]

    @model_validator(mode="after")
    def _has_each_feature(self) -> FittedProfile:
        for name in set(self.seconds_per) ^ set(FEATURES):
            state = "unknown" if name in self.seconds_per else "missing"
            raise ValueError(f"seconds_per: {name!r} is {state}")
        return self


class Points(_Strict):
    """A measured curve: milliseconds over some amount of work."""

    x: list[Number] = Field(min_length=1)
    ms: list[Number] = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_curve(self) -> Points:
        if len(self.x) != len(self.ms):
            raise ValueError(f"x has {len(self.x)} values, ms {len(self.ms)}")
        if any(left >= right for left, right in itertools.pairwise(self.x)):
            raise ValueError("the values of x must rise")
        return self


class SizedPoints(Points):
    """The curve of one batch size or chunk."""

    size: int = Field(ge=1)


class VidurProfile(_Profile):
    """The points of a Vidur profile."""

    kind: Literal["vidur"] = "vidur"
    linear: dict[str, Points] = Field(description="over tokens")
    attn_decode: list[SizedPoints] = Field(min_length=1, description="over context, by batch size")
    attn_prefill: list[SizedPoints] = Field(
        min_length=1, description="over (query, key) pairs, by chunk"
    )


Profile: TypeAlias = FittedProfile | VidurProfile


def fitted_profile(
    online: OnlineStepTime, model: ModelConfig, gpu: str, measured_on: str
) -> FittedProfile:
    """What is saved of what was learnt from an engine."""
    fitted, figures = online.model(), online.figures()
    return FittedProfile(
        model_name=model.model_name,
        gpu=gpu,
        tensor_parallel_size=model.tensor_parallel_size,
        measured_on=measured_on,
        num_steps=figures.num_steps,
        mape=round(figures.mape, 4),
        knot=fitted.knot,
        seconds_per=dict(zip(FEATURES, fitted.coefficients, strict=True)),
    )


def vidur_profile(
    times: ProfileTimes, model: ModelConfig, gpu: str, measured_on: str
) -> VidurProfile:
    """What is saved of a Vidur profile."""
    return VidurProfile(
        model_name=model.model_name,
        gpu=gpu,
        tensor_parallel_size=model.tensor_parallel_size,
        measured_on=measured_on,
        linear={name: Points(**_points(curve)) for name, curve in times.linear.items()},
        attn_decode=_sized(times.decode_by_batch),
        attn_prefill=_sized(times.prefill_by_chunk),
    )


def save_profile(profile: Profile, path: Path) -> None:
    """Write it as JSON; folders are made. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    indent = 2 if isinstance(profile, FittedProfile) else None
    path.write_text(profile.model_dump_json(indent=indent) + "\n")


def load_profile(path_or_name: str | Path, model: ModelConfig, gpu: Gpu) -> StepTimeModel:
    """The step times of a saved profile, given by its path or name, or of a Vidur folder.

    Raises:
        ConfigError: there is none, it cannot be used, or it is another model's or GPU's; the
            message names the file, key and value.
    """
    path = _find(path_or_name)
    if path.is_dir():
        return VidurStepTime(read_profile(path, model), model, gpu)
    kind = load_config(path, _Head).kind
    kinds: dict[str, type[Profile]] = {"fitted": FittedProfile, "vidur": VidurProfile}
    profile = load_config(path, kinds[kind])
    _check_is_for(path, profile, model, gpu)
    if isinstance(profile, FittedProfile):
        coefficients = tuple(profile.seconds_per[name] for name in FEATURES)
        return FittedStepTime(profile.knot, coefficients)
    return VidurStepTime(_profile_times(profile), model, gpu)


def _find(path_or_name: str | Path) -> Path:
    path = Path(path_or_name)
    if path.exists():
        return path
    named = PROFILES / f"{path_or_name}.json"
    if len(path.parts) == 1 and named.exists():
        return named
    known = ", ".join(sorted(found.stem for found in PROFILES.glob("*.json"))) or "none"
    raise ConfigError(
        f"profile {str(path_or_name)!r}: neither a file, nor a folder, nor a name in {PROFILES} "
        f"(there: {known})"
    )


def _check_is_for(path: Path, profile: Profile, model: ModelConfig, gpu: Gpu) -> None:
    expected = {
        "model_name": model.model_name,
        "tensor_parallel_size": model.tensor_parallel_size,
        "gpu": gpu.name,
    }
    for key, wanted in expected.items():
        found = getattr(profile, key)
        if found != wanted:
            raise ConfigError(f"{path}: {key}: is for {found!r}, but this unit has {wanted!r}")


def _points(curve: Curve) -> dict[str, list[float]]:
    """Six digits are more than was measured."""
    return {"x": list(curve.xs), "ms": [float(f"{ms:.6g}") for ms in curve.ys]}


def _sized(family: CurveFamily) -> list[SizedPoints]:
    pairs = zip(family.sizes, family.curves, strict=True)
    return [SizedPoints(size=size, **_points(curve)) for size, curve in pairs]


def _family(points: Sequence[SizedPoints]) -> CurveFamily:
    return CurveFamily([item.size for item in points], [Curve(item.x, item.ms) for item in points])


def _profile_times(profile: VidurProfile) -> ProfileTimes:
    return ProfileTimes(
        linear={name: Curve(points.x, points.ms) for name, points in profile.linear.items()},
        decode_by_batch=_family(profile.attn_decode),
        prefill_by_chunk=_family(profile.attn_prefill),
    )
