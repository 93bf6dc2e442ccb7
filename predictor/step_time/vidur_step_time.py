"""Step times looked up as stock Vidur 0.0.26 looks them up, for engines of any limits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from predictor.step_time import roofline
from predictor.step_time.base import BatchShape
from predictor.step_time.gpus import Gpu
from predictor.step_time.least_squares import Floats
from predictor.step_time.table import CHUNK_STRIDE, StepTable, step_table
from predictor.step_time.vidur_tables import (
    TOKEN_STRIDE,
    OperatorTimes,
    kv_granularity,
    round_up,
    step_cost_ms,
)
from wire.model_config import ModelConfig

_LAUNCH_OVERHEAD_MS = 0.02
"""Vidur's ``nccl_cpu_launch_overhead_ms``; its skew overhead is 0 unless configured."""


@dataclass(frozen=True, slots=True)
class VidurStepTime:
    """The total time of Vidur's predictor over the tables of ``vidur_tables.build_tables``.

    Both agree for engines whose ``max_model_len`` is the model's, which decides the granularity.
    """

    times: OperatorTimes
    model: ModelConfig
    gpu: Gpu

    @property
    def granularity(self) -> int:
        """Tokens by which contexts are rounded up."""
        return kv_granularity(self.model.max_model_len)

    def step_s(self, shape: BatchShape) -> float:
        """Seconds of one step; an empty batch takes none.

        Without ``prefill_chunks`` the prefills count as equal chunks after equal contexts.
        """
        if shape.num_tokens == 0:
            return 0.0
        chunks = shape.prefill_chunks or _equal_chunks(shape)
        layer_ms = self._tokens_ms(shape.num_tokens)
        layer_ms += sum(self._prefill_ms(context + n, n) for n, context in chunks)
        if shape.num_decode_seqs:
            decode_kv = shape.num_kv_tokens - sum(context for _, context in chunks)
            mean = decode_kv // shape.num_decode_seqs + 1
            layer_ms += self.times.attn_decode_ms(
                shape.num_decode_seqs, round_up(mean, self.granularity)
            )
        return layer_ms * self.model.num_layers / 1e3

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``: linear operators by tokens, attention in the two grids."""
        scale = self.model.num_layers / 1e3
        contexts = range(0, self.model.max_model_len + 2 * self.granularity, self.granularity)
        token_s: Floats = np.zeros(max_tokens + 1)
        for first in range(1, max_tokens + 1, TOKEN_STRIDE):
            token_s[first : first + TOKEN_STRIDE] = self._tokens_ms(first) * scale
        chunks = range(0, round_up(max_tokens, CHUNK_STRIDE) + 1, CHUNK_STRIDE)
        return step_table(
            token_s,
            max_seqs,
            decode_s=_grid(self.times.attn_decode_ms, range(max_seqs + 1), contexts) * scale,
            prefill_s=_grid(self._prefill_ms, contexts, chunks) * scale,
            granularity=self.granularity,
        )

    def _tokens_ms(self, num_tokens: int) -> float:
        """Of one layer, without attention."""
        tokens = round_up(num_tokens, TOKEN_STRIDE)
        layer_ms = sum(
            time_ms
            for name, time_ms in self.times.linear_ms(tokens).items()
            if name != "attn_kv_cache_save"  # Vidur looks it up and does not count it
        )
        if self.model.tensor_parallel_size > 1:
            reduce_ms = float(roofline.all_reduce_ms(self.model, self.gpu, tokens))
            layer_ms += 2 * (reduce_ms + _LAUNCH_OVERHEAD_MS)
        return layer_ms + step_cost_ms(self.model, self.gpu, tokens) / self.model.num_layers

    def _prefill_ms(self, kv_tokens: int, q_tokens: int) -> float:
        """``kv_tokens`` includes the chunk; both are rounded up, as in the tables' keys."""
        kv = round_up(kv_tokens, self.granularity)
        q = round_up(q_tokens, CHUNK_STRIDE)
        return self.times.attn_prefill_ms(max(0, kv - q), q)


def _equal_chunks(shape: BatchShape) -> list[tuple[int, int]]:
    """Prefills that have the batch's sums between them."""
    if not shape.num_prefill_seqs:
        return []
    tokens = shape.num_prefill_tokens / shape.num_prefill_seqs
    context = max(0.0, shape.prefill_attention / shape.num_prefill_tokens - tokens / 2)
    return [(round(tokens), round(context))] * shape.num_prefill_seqs


def _grid(
    time_ms: Callable[[int, int], float], rows: Sequence[int], columns: Sequence[int]
) -> Floats:
    times: Floats = np.array([[time_ms(row, column) for column in columns] for row in rows])
    return times
