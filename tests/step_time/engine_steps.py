"""Step records of an imaginary engine that follows a model, with noise."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from predictor.step_time.base import BatchShape, StepTimeModel, batch_shape
from wire.model_config import load_model_config
from wire.snapshot import StepRecord

LLAMA = load_model_config(Path(__file__).parents[2] / "config" / "llama_config.json")


def record(shape: BatchShape, duration_s: float, step: int) -> StepRecord:
    """What the plug-in reports of such a batch."""
    return StepRecord(
        step=step,
        started_at=1e6 + step,
        duration_s=duration_s,
        num_prefill_tokens=shape.num_prefill_tokens,
        num_decode_tokens=shape.num_decode_tokens,
        num_prefill_seqs=shape.num_prefill_seqs,
        num_decode_seqs=shape.num_decode_seqs,
        num_kv_tokens=shape.num_kv_tokens,
        prefill_attention=shape.prefill_attention,
    )


def steps(
    engine: StepTimeModel,
    num: int,
    *,
    prefill_share: float = 0.2,
    noise: float = 0.05,
    first: int = 1,
    seed: int = 0,
) -> Iterator[StepRecord]:
    """Random batches: decodes alone, and some with a prefill chunk."""
    rng = random.Random(seed)
    for step in range(first, first + num):
        decodes = [rng.randint(10, 2000) for _ in range(rng.randint(1, 40))]
        has_prefill = rng.random() < prefill_share
        chunks = [(rng.randint(8, 450), rng.choice([0, 0, 512]))] if has_prefill else []
        shape = batch_shape(chunks, decodes)
        yield record(shape, engine.step_s(shape) * rng.lognormvariate(0, noise), step)
