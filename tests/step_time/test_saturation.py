"""The throughput-saturation model."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from predictor.step_time.base import BatchShape, batch_shape
from predictor.step_time.saturation import (
    OnlineSaturation,
    SaturationSettings,
    SaturationStepTime,
    fallback,
    fit_saturation,
)
from tests.step_time.engine_steps import steps

TRUTH = SaturationStepTime(tau_0=0.004, tau_b=2e-4, tau_s=0.0, p_max=9000.0, k_b=0.5, k_s=0.01)


def test_it_is_the_formula() -> None:
    """T(B, S) = tau_0 + S / Thr(B, S) + tau_B B + tau_S S, and nothing for an empty batch."""
    model = SaturationStepTime(0.01, 0.002, 0.0003, p_max=1000.0, k_b=0.5, k_s=0.01)
    throughput = 1000 * (1 - math.exp(-0.5 * 3)) * (1 - math.exp(-0.01 * 102))
    expected_s = 0.01 + 102 / throughput + 0.002 * 3 + 0.0003 * 102
    assert model.step_s(batch_shape([(100, 0)], [7, 8])) == pytest.approx(expected_s)
    assert model.step_s(BatchShape()) == 0


def test_a_fit_finds_the_model_behind_the_steps() -> None:
    """Its times, that is: several sets of parameters give nearly the same."""
    fitted = fit_saturation(list(steps(TRUTH, 600, noise=0.02)))
    for shape in (batch_shape([], [99] * 2), batch_shape([], [99] * 30), batch_shape([(400, 0)])):
        assert fitted.step_s(shape) == pytest.approx(TRUTH.step_s(shape), rel=0.05)
    assert fitted.p_max < math.inf


def test_without_enough_or_good_steps_a_line_stands_in() -> None:
    """8.7 ms and 0.0215 ms a token, as long as there is nothing better."""
    few = list(steps(TRUTH, 49))
    line = fallback(SaturationSettings())
    assert line.step_s(batch_shape([(100, 0)])) == pytest.approx(8.7e-3 + 100 * 0.0215e-3)
    assert fit_saturation(few) == line
    assert fit_saturation([*few, *steps(TRUTH, 1)]) != line
    rng = random.Random(0)
    unlike = [msgspec.structs.replace(r, duration_s=rng.uniform(0.01, 1)) for r in few * 3]
    assert fit_saturation(unlike) == line


def test_it_is_fitted_anew_when_it_has_become_bad() -> None:
    """Not before there are enough steps, and not while it is good."""
    online = OnlineSaturation()
    line = online.model()
    records = list(steps(TRUTH, 300, noise=0.02))
    assert online.observe(records[:49]) == 49
    assert online.model() == line
    online.observe(records[:60])
    first = online.model()
    assert first != line
    online.observe(records)
    assert online.model() == first
    slower = SaturationStepTime(0.008, 4e-4, 0.0, p_max=4500.0, k_b=0.5, k_s=0.01)
    online.observe(list(steps(slower, 1000, noise=0.02, first=301)))
    online.observe(list(steps(slower, 50, noise=0.02, first=1301)))
    shape = batch_shape([(100, 0)], [99] * 10)
    assert online.model().step_s(shape) == pytest.approx(slower.step_s(shape), rel=0.1)
