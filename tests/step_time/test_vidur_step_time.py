"""Vidur's lookups against stock Vidur itself."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from vidur.entities import Batch, Request
from vidur.types import ReplicaId

from predictor.backends.vidur_predictor import TablePredictor, replica_config
from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import RooflineTimes, build_tables
from tests.predictor.engines import limits
from wire.model_config import load_model_config

CONFIG = Path(__file__).parents[2] / "config"


def random_batches(num: int) -> list[list[tuple[int, int]]]:
    """(tokens, context before) of each sequence, decodes and prefills mixed."""
    rng = random.Random(1)
    batches = []
    for _ in range(num):
        decodes = [(1, rng.randint(0, 4000)) for _ in range(rng.randint(0, 40))]
        prefills = [(rng.randint(2, 150), rng.randint(0, 3900)) for _ in range(rng.randint(0, 3))]
        batches.append([*decodes, *prefills] or [(1, 0)])
    return batches


def vidur_batch(chunks: list[tuple[int, int]]) -> Batch:
    """A batch of stock Vidur with these tokens and, as it counts, contexts with them."""
    requests = [Request(0.0, context + tokens, 1) for tokens, context in chunks]
    num_kv_tokens = [context + tokens for tokens, context in chunks]
    return Batch(ReplicaId(0), requests, [tokens for tokens, _ in chunks], num_kv_tokens)


@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_a_step_takes_what_stock_vidur_says(tensor_parallel_size: int) -> None:
    """For random batches, with the same operator times behind both."""
    model = load_model_config(CONFIG / "llama_config.json").model_copy(
        update={"tensor_parallel_size": tensor_parallel_size}
    )
    gpu = find_gpu("A30")
    times = RooflineTimes(model, gpu)
    stock = TablePredictor(build_tables(times, model, gpu, limits()), replica_config(model))
    ours = VidurStepTime(times, model, gpu)
    for chunks in random_batches(200):
        shape = batch_shape(
            [chunk for chunk in chunks if chunk[0] > 1],
            [context for tokens, context in chunks if tokens == 1],
        )
        assert ours.step_s(shape) == pytest.approx(stock.step_s(vidur_batch(chunks)), rel=1e-12)
