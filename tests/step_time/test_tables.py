"""Every step-time model as a table for the compiled what-if."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from predictor.step_time.base import StepTimeModel
from predictor.step_time.fitted import FittedStepTime
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from predictor.step_time.saturation import SaturationSettings, SaturationStepTime, fallback
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import RooflineTimes
from tests.step_time.table_formula import evaluate, random_shapes
from wire.model_config import load_model_config

CONFIG = Path(__file__).parents[2] / "config"
LLAMA = load_model_config(CONFIG / "llama_config.json")
SPLIT = LLAMA.model_copy(update={"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
A30 = find_gpu("A30")

MODELS: dict[str, StepTimeModel] = {
    "roofline": RooflineStepTime(LLAMA, A30),
    "roofline of split model": RooflineStepTime(SPLIT, find_gpu("H100")),
    "roofline of a CPU": RooflineStepTime(LLAMA, find_gpu("CPU")),
    "Vidur": VidurStepTime(RooflineTimes(LLAMA, A30), LLAMA, A30),
    "Vidur of split model": VidurStepTime(RooflineTimes(SPLIT, A30), SPLIT, A30),
    "fitted": FittedStepTime(64, (2e-2, 1e-3, 3e-5, 4e-5, 1e-4, 5e-7, 1e-8, 2e-5)),
    "saturation": SaturationStepTime(1e-3, 6e-4, 1e-5, 700.0, 3.5, 0.05),
    "fallback": fallback(SaturationSettings()),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_table_says_what_its_model_says(name: str) -> None:
    """For random batches of any mixture, up to rounding."""
    model = MODELS[name]
    table = model.tabulate(max_tokens=520, max_seqs=52)
    for shape in random_shapes(500):
        assert evaluate(table, shape) == pytest.approx(model.step_s(shape), rel=1e-9, abs=0)


@pytest.mark.parametrize("name", MODELS)
def test_a_table_covers_the_batches_asked_for(name: str) -> None:
    """With finite times, none of them negative."""
    table = MODELS[name].tabulate(max_tokens=100, max_seqs=7)
    assert table.token_s.shape == (101,)
    assert table.seq_factor.shape == table.seq_s.shape == (8,)
    for array in (table.token_s, table.seq_factor, table.seq_s, table.weights):
        assert array.flags.c_contiguous
        assert all(math.isfinite(value) and value >= 0 for value in array)
