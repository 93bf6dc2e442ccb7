"""Seeded states of one busy unit, with prompts and answers as long as those of ShareGPT."""

from __future__ import annotations

import math
import random

from predictor.overlay import Population, SimulatedSequence, newcomer
from wire.model_config import ModelConfig
from wire.snapshot import EngineLimits

NOW = 1_000_000.0
_P90 = 1.2816
"""The 90th percentile of the standard normal distribution."""


def make_limits(model: ModelConfig, num_running: int, num_gpu_blocks: int) -> EngineLimits:
    """Room for the running sequences and no more, so that others have a reason to wait."""
    return EngineLimits(
        max_num_seqs=max(model.max_batch_size, num_running),
        max_num_batched_tokens=model.chunk_size,
        max_model_len=model.max_model_len,
        block_size=model.block_size,
        num_gpu_blocks=num_gpu_blocks,
    )


def make_state(
    rng: random.Random, model: ModelConfig, num_running: int, num_waiting: int, *, is_tight: bool
) -> Population:
    """Each running sequence is somewhere in its answer.

    With tight memory these hold all of the unit's KV blocks, if they hold as many as a sequence of
    the greatest length needs; else there are enough for all sequences to the end.
    """
    running = tuple(_running(rng, model, index) for index in range(num_running))
    limits = make_limits(model, num_running, model.max_model_len)
    waiting = tuple(make_question(rng, limits, f"w{index}") for index in range(num_waiting))
    held = sum(sequence.num_blocks for sequence in running)
    all_tokens = sum(seq.num_tokens + seq.remaining_tokens for seq in running + waiting)
    free = 0 if is_tight else all_tokens // model.block_size
    free = max(free, model.max_model_len // model.block_size - held)
    limits = make_limits(model, num_running, held + free)
    return Population(NOW, limits, free, running, waiting)


def make_question(
    rng: random.Random, limits: EngineLimits, request_id: str = "new"
) -> SimulatedSequence:
    """A request that has not begun."""
    return newcomer(request_id, _prompt(rng), _output(rng), limits)


def _running(rng: random.Random, model: ModelConfig, index: int) -> SimulatedSequence:
    prompt, output = _prompt(rng), _output(rng)
    tokens = prompt + rng.randint(1, max(1, output - 1))
    return SimulatedSequence(
        request_id=f"r{index}",
        num_prompt_tokens=prompt,
        num_tokens=tokens,
        num_computed_tokens=tokens - 1,
        remaining_tokens=max(1, prompt + output - tokens),
        num_blocks=-(-(tokens - 1) // model.block_size),
        arrival_time=float(index),
    )


def _prompt(rng: random.Random) -> int:
    return _log_normal(rng, 100, 700)


def _output(rng: random.Random) -> int:
    return _log_normal(rng, 262, 623)


def _log_normal(rng: random.Random, p50: float, p90: float) -> int:
    """From its median and its 90th percentile; a few tokens at least, 2,000 at most."""
    return round(
        min(2000.0, max(4.0, rng.lognormvariate(math.log(p50), math.log(p90 / p50) / _P90)))
    )
