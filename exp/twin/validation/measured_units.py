"""The twin's units as measured: step times and their noise from the steps of real engines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from exp.twin.errors import ValidationImpossible
from exp.twin.units import UnitSpec
from predictor.step_time.fitted import FittedStepTime, features
from predictor.step_time.least_squares import Floats, solve_nonnegative
from predictor.step_time.records import record_shape
from wire.model_config import ModelConfig
from wire.snapshot import EngineLimits, StepRecord

LEAST_STEPS = 200
MOST_RATIO = 1.5
"""Steps off by more than this factor count as if they were off by it: the machine was elsewhere."""
_KNOTS = (4, 8, 16, 32, 64)
_ROUNDS = 10


class Measured(NamedTuple):
    """Equal units, and how their steps scatter around the fit."""

    specs: list[UnitSpec]
    fit: FittedStepTime
    noise: float
    """Standard deviation of a step's time, as a share of what the fit says."""
    num_steps: int
    stalled_share: float
    """Of all time in steps: what they took longer than ``MOST_RATIO`` explains."""

    def slowdown(self, steps: Mapping[str, Sequence[StepRecord]]) -> float:
        """How many times as long as expected later steps took: not 1 where the machine's other work
        has changed, which the twin knows nothing of."""
        records = [record for each in steps.values() for record in each]
        return float(_durations_s(records).sum() / _expected_s(self.fit, records).sum())


def measured_units(
    model: ModelConfig,
    limits: Mapping[str, EngineLimits],
    steps: Mapping[str, Sequence[StepRecord]],
) -> Measured:
    """Of units on the same cores, which have one table of step times; ``steps`` names them.

    Raises:
        ValidationImpossible: they have shown too few steps.
    """
    records = [record for each in steps.values() for record in each]
    if len(records) < LEAST_STEPS or len(limits) < len(steps):
        raise ValidationImpossible(
            f"the engines have published {len(records)} steps; at least {LEAST_STEPS} are needed to"
            " learn step times. Send more requests; is the plug-in loaded?"
        )
    fit = fit_steps(records)
    observed_s, expected_s = _durations_s(records), _expected_s(fit, records)
    kept_s = _kept_s(observed_s, expected_s)
    return Measured(
        specs=[_spec(name, model, limits[name], fit) for name in steps],
        fit=fit,
        noise=float(np.std(kept_s / expected_s)),
        num_steps=len(records),
        stalled_share=float((observed_s - np.minimum(observed_s, kept_s)).sum() / observed_s.sum()),
    )


def _spec(name: str, model: ModelConfig, limits: EngineLimits, fit: FittedStepTime) -> UnitSpec:
    table = fit.tabulate(limits.max_num_batched_tokens, limits.max_num_seqs)
    return UnitSpec(name, model, limits, table, table)


def fit_steps(records: Sequence[StepRecord]) -> FittedStepTime:
    """The linear model with the least squared error relative to the times that it expects.

    Steps with a prefill, which are few and decide on TTFT, weigh as much together as all others.
    """
    observed_s, weights = _durations_s(records), _weights(records)
    fits = [
        _fit(np.array([features(one, knot) for one in records]), observed_s, weights)
        for knot in _KNOTS
    ]
    (_, coefficients), knot = min(zip(fits, _KNOTS, strict=True), key=lambda one: one[0][0])
    return FittedStepTime(knot, tuple(coefficients.tolist()))


def _weights(records: Sequence[StepRecord]) -> Floats:
    """They add up to 1."""
    has_prefill = np.array([one.num_prefill_tokens > 0 for one in records])
    counts = np.where(has_prefill, has_prefill.sum(), (~has_prefill).sum())
    weights: Floats = (1 / counts) / (1 / counts).sum()
    return weights


def _fit(batches: Floats, observed_s: Floats, weights: Floats) -> tuple[float, Floats]:
    """Mean squared relative error and coefficients, found in rounds: what is expected weighs each
    step and says which ones are off."""
    expected_s = observed_s
    coefficients: Floats = np.zeros(batches.shape[1])
    for _ in range(_ROUNDS):
        rows, goals = batches / expected_s[:, None], _kept_s(observed_s, expected_s) / expected_s
        weighted = rows.T * weights
        coefficients = solve_nonnegative(weighted @ rows, weighted @ goals)
        expected_s = batches @ coefficients
    errors = _kept_s(observed_s, expected_s) / expected_s - 1
    return float(weights @ np.square(errors)), coefficients


def _durations_s(records: Iterable[StepRecord]) -> Floats:
    durations_s: Floats = np.array([one.duration_s for one in records])
    return durations_s


def _expected_s(fit: FittedStepTime, records: Iterable[StepRecord]) -> Floats:
    expected_s: Floats = np.array([fit.step_s(record_shape(one)) for one in records])
    return expected_s


def _kept_s(observed_s: Floats, expected_s: Floats) -> Floats:
    kept_s: Floats = np.clip(observed_s, expected_s / MOST_RATIO, expected_s * MOST_RATIO)
    return kept_s
