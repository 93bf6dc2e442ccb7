"""The units of a case: what their engines are, and what their sidecars take them for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from exp.study.case import Case, UnitGroup
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime, num_gpu_blocks
from predictor.step_time.table import StepTable
from wire.model_config import ModelConfig, load_model_config
from wire.snapshot import EngineLimits

PROJECT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """One unit."""

    name: str
    model: ModelConfig
    limits: EngineLimits
    table: StepTable
    """Its mean step times."""
    believed_table: StepTable
    """The same, as its sidecar has them."""


def unit_specs(case: Case) -> list[UnitSpec]:
    """The units of a case, group by group.

    Raises:
        ConfigError: the model's configuration cannot be used, or a GPU is unknown or too small.
    """
    model = load_model_config(PROJECT / case.fleet.model_config)
    if case.fleet.prefix_caching is not None:
        model = model.model_copy(update={"enable_prefix_caching": case.fleet.prefix_caching})
    rng = np.random.default_rng([case.seed, 0x57E9])
    groups = [group for group in case.fleet.groups for _ in range(group.count)]
    errors = np.exp(case.twin.step_error * rng.standard_normal(len(groups)))
    return [
        _unit(f"unit-{number:02}", model, group, float(error))
        for number, (group, error) in enumerate(zip(groups, errors, strict=True), 1)
    ]


def _unit(name: str, model: ModelConfig, group: UnitGroup, error: float) -> UnitSpec:
    gpu = find_gpu(group.gpu)
    limits = EngineLimits(
        max_num_seqs=model.max_batch_size,
        max_num_batched_tokens=model.chunk_size,
        max_model_len=model.max_model_len,
        block_size=model.block_size,
        num_gpu_blocks=num_gpu_blocks(model, gpu),
        enable_prefix_caching=model.enable_prefix_caching,
    )
    table = RooflineStepTime(model, gpu).tabulate(model.chunk_size, model.max_batch_size)
    return UnitSpec(name, model, limits, _scaled(table, 1 / group.speed), _scaled(table, error))


def _scaled(table: StepTable, factor: float) -> StepTable:
    """All times multiplied."""
    return table._replace(
        token_s=table.token_s * factor,
        seq_s=table.seq_s * factor,
        weights=table.weights * factor,
        decode_s=table.decode_s * factor,
        prefill_s=table.prefill_s * factor,
    )
