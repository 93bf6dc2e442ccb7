"""Step-time models held against the steps of a recorded run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.fidelity.recording import Run
from predictor.step_time.accuracy import accuracy
from predictor.step_time.base import StepTimeModel
from predictor.step_time.online import OnlineStepTime
from predictor.step_time.records import record_shape
from predictor.step_time.saturation import SaturationSettings, fit_saturation
from wire.model_config import ModelConfig
from wire.snapshot import StepRecord

# Forms of model are compared: a poor fit must not be replaced by a line.
_AS_FITTED = SaturationSettings(model_confidence=-math.inf)


class _Times(NamedTuple):
    step: StepRecord
    expected_s: dict[str, float]
    """By model."""


def step_errors(run: Run, prior: StepTimeModel, model: ModelConfig) -> dict[str, dict[str, float]]:
    """R2 and mean absolute relative error of each model, over all steps and over decodes alone.

    Models are fitted to the earlier half of each unit's steps and judged by the later half.
    ``fitted_online`` goes on learning there: each step is predicted before it is learnt from.
    """
    times = [item for steps in run.steps.values() for item in _expect(steps, prior, model)]
    decodes = [item for item in times if item.step.num_prefill_seqs == 0]
    figures = {}
    for name in times[0].expected_s:
        of_all, of_decodes = _accuracy(times, name), _accuracy(decodes, name)
        figures[name] = {
            **of_all,
            **{f"decode_only_{key}": value for key, value in of_decodes.items()},
        }
    return figures


def _expect(
    steps: Sequence[StepRecord], prior: StepTimeModel, model: ModelConfig
) -> Iterable[_Times]:
    earlier, later = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    saturation = fit_saturation(earlier, _AS_FITTED)
    online = OnlineStepTime(prior, model)
    online.observe(earlier)
    fitted = online.model()
    for step in later:
        shape = record_shape(step)
        expected = {
            "roofline": prior.step_s(shape),
            "saturation": saturation.step_s(shape),
            "fitted": fitted.step_s(shape),
            "fitted_online": online.model().step_s(shape),
        }
        online.observe([step])
        yield _Times(step, expected)


def _accuracy(times: Sequence[_Times], name: str) -> dict[str, float]:
    observed = [item.step.duration_s for item in times]
    found = accuracy(observed, [item.expected_s[name] for item in times])
    return {"r2": round(found.r2, 3), "mape": round(found.mape, 4)}
