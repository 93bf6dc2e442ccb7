"""Execution-time tables with Vidur's keys, from the analytic roofline or from a Vidur profile.

A table maps a key to milliseconds for one layer of one tensor-parallel worker. The keys are those
that stock Vidur 0.0.26 looks up (``include/vidur/execution_time_predictor``):

* operators whose cost depends on the number of tokens alone: ``(tokens rounded up to 8,)``; only
  ``attn_kv_cache_save`` has a key for every number of tokens;
* ``attn_decode``: ``(sequences, mean context rounded up to the granularity)``;
* ``attn_prefill``: ``(context with the chunk, rounded up to the granularity, chunk rounded up to
  32)``. The key's context includes the chunk itself, a profile's ``kv_cache_size`` does not.

Vidur knows neither output embedding nor scheduling, sampling or hand-over between pipeline stages.
Their time, always analytic, is spread over the layers' ``add``, so that steps have their length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from predictor.step_time import roofline
from predictor.step_time.gpus import Gpu
from predictor.step_time.table import CHUNK_STRIDE
from wire.model_config import ModelConfig
from wire.snapshot import EngineLimits

Table = dict[tuple[int, ...], float]

TOKEN_STRIDE = 8
_MAX_CONTEXTS = 256
_MIN_GRANULARITY = 16


class OperatorTimes(Protocol):
    """Milliseconds of Vidur's operators, for one layer of one tensor-parallel worker."""

    def linear_ms(self, num_tokens: int) -> dict[str, float]:
        """Every operator whose cost depends on the number of tokens alone, by name."""

    def attn_decode_ms(self, batch_size: int, kv_tokens: int) -> float:
        """Decode attention of ``batch_size`` sequences with ``kv_tokens`` of context each."""

    def attn_prefill_ms(self, kv_tokens: int, q_tokens: int) -> float:
        """Prefill attention of ``q_tokens`` new tokens after ``kv_tokens`` in the cache."""


@dataclass(frozen=True, slots=True)
class RooflineTimes:
    """Operator times from the model's architecture and the GPU's data sheet."""

    model: ModelConfig
    gpu: Gpu

    def linear_ms(self, num_tokens: int) -> dict[str, float]:
        """See ``OperatorTimes``."""
        return roofline.operator_times_ms(self.model, self.gpu, num_tokens)

    def attn_decode_ms(self, batch_size: int, kv_tokens: int) -> float:
        """See ``OperatorTimes``."""
        return roofline.attn_decode_ms(self.model, self.gpu, batch_size, kv_tokens)

    def attn_prefill_ms(self, kv_tokens: int, q_tokens: int) -> float:
        """See ``OperatorTimes``."""
        return roofline.attn_prefill_ms(self.model, self.gpu, kv_tokens, q_tokens)


@dataclass(frozen=True, slots=True)
class VidurTables:
    """Tables that hold every key which an engine within ``limits`` can ask for."""

    limits: EngineLimits
    kv_granularity: int
    operators: dict[str, Table]


def build_tables(
    times: OperatorTimes, model: ModelConfig, gpu: Gpu, limits: EngineLimits
) -> VidurTables:
    """Fill the tables for an engine with these limits; well under a second for usual limits."""
    granularity = kv_granularity(limits.max_model_len)
    contexts = range(0, limits.max_model_len + 2 * granularity, granularity)
    # Decodes ignore the token budget in Vidur, so a batch may be all of the running sequences.
    max_tokens = round_up(max(limits.max_num_batched_tokens, limits.max_num_seqs), TOKEN_STRIDE)
    chunks = range(CHUNK_STRIDE, max_tokens + CHUNK_STRIDE, CHUNK_STRIDE)
    operators = _linear_tables(times, model, gpu, range(TOKEN_STRIDE, max_tokens + 1, TOKEN_STRIDE))
    for (tokens,) in operators["add"]:
        operators["add"][(tokens,)] += step_cost_ms(model, gpu, tokens) / model.num_layers
    operators["attn_kv_cache_save"] = {(tokens,): 0.0 for tokens in range(1, max_tokens + 1)}
    operators["attn_decode"] = _grid(
        range(1, limits.max_num_seqs + 1), contexts, times.attn_decode_ms
    )
    operators["attn_prefill"] = _grid(
        contexts, chunks, lambda kv, q: times.attn_prefill_ms(max(0, kv - q), q)
    )
    return VidurTables(limits=limits, kv_granularity=granularity, operators=operators)


def kv_granularity(max_model_len: int) -> int:
    """The step of contexts in the tables: a power of two that leaves at most 256 of them."""
    granularity = _MIN_GRANULARITY
    while max_model_len > granularity * _MAX_CONTEXTS:
        granularity *= 2
    return granularity


def step_cost_ms(model: ModelConfig, gpu: Gpu, num_tokens: int) -> float:
    """What Vidur leaves out of a step: everything outside the layers."""
    handover_ms = roofline.send_recv_ms(model, gpu, num_tokens)
    head_ms = roofline.lm_head_ms(model, gpu, min(num_tokens, model.max_batch_size))
    step_ms = gpu.step_overhead_s * 1e3
    return float(step_ms + head_ms + (model.pipeline_parallel_size - 1) * handover_ms)


def _linear_tables(
    times: OperatorTimes, model: ModelConfig, gpu: Gpu, token_counts: Iterable[int]
) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for tokens in token_counts:
        for name, time_ms in times.linear_ms(tokens).items():
            tables.setdefault(name, {})[(tokens,)] = time_ms
        if model.tensor_parallel_size > 1:
            reduce_ms = roofline.all_reduce_ms(model, gpu, tokens)
            tables.setdefault("all_reduce", {})[(tokens,)] = reduce_ms
    return tables


def _grid(
    firsts: Iterable[int], seconds: Iterable[int], time_ms: Callable[[int, int], float]
) -> Table:
    columns = list(seconds)
    return {(first, second): time_ms(first, second) for first in firsts for second in columns}


def round_up(number: int, stride: int) -> int:
    """The next multiple of ``stride``."""
    return -(-number // stride) * stride
