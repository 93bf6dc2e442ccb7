"""Step durations from a ``StepTable`` (see ``predictor/step_time/table.py`` for the formula)."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined
from predictor.step_time.table import (
    CHUNK_STRIDE,
    DECODE_SEQS,
    DECODE_TOKENS,
    HAS_DECODE,
    HAS_PREFILL,
    KV_TOKENS,
    PREFILL_ATTENTION,
    PREFILL_SEQS,
    PREFILL_TOKENS,
    StepTable,
)


@inlined
def decode_steps_s(table: StepTable, num_seqs: int, kv_tokens: int, num_steps: int) -> float:
    """Seconds of ``num_steps`` steps in which ``num_seqs`` sequences decode and nothing else runs.

    ``kv_tokens`` is the sum of their contexts before the first of the steps.
    """
    weights = table.weights
    tokens = min(num_seqs, table.token_s.size - 1)
    seqs = min(num_seqs, table.seq_s.size - 1)
    base = table.token_s[tokens] * table.seq_factor[seqs] + table.seq_s[seqs]
    base += (weights[DECODE_TOKENS] + weights[DECODE_SEQS]) * num_seqs + weights[HAS_DECODE]
    # Every context grows by one in each step.
    growth = num_seqs * (num_steps * (num_steps - 1) // 2)
    total = base * num_steps + weights[KV_TOKENS] * (num_steps * kv_tokens + growth)
    if table.decode_s.size > 0:
        total += _decode_grid_s(table, num_seqs, kv_tokens, num_steps)
    return total


@inlined
def _decode_grid_s(table: StepTable, num_seqs: int, kv_tokens: int, num_steps: int) -> float:
    """The part of ``decode_s``, whose column is the same for up to ``granularity`` steps."""
    granularity = table.granularity
    row = table.decode_s[min(num_seqs, table.decode_s.shape[0] - 1)]
    mean = kv_tokens // num_seqs + 1
    last = mean + num_steps - 1
    total = 0.0
    while mean <= last:
        granule = (mean + granularity - 1) // granularity
        if granule >= row.size - 1:
            return total + (last - mean + 1) * row[-1]
        same = min(granule * granularity, last) - mean + 1
        total += same * row[granule]
        mean += same
    return total


@inlined
def chunk_s(table: StepTable, num_tokens: int, context: int) -> float:
    """What one prefill chunk adds through ``prefill_s``; ``context`` is that before the chunk."""
    if table.prefill_s.size == 0:
        return 0.0
    granularity = table.granularity
    granule = (context + num_tokens + granularity - 1) // granularity
    stride = (num_tokens + CHUNK_STRIDE - 1) // CHUNK_STRIDE
    rows, columns = table.prefill_s.shape
    return table.prefill_s[min(granule, rows - 1), min(stride, columns - 1)]


@inlined
def mixed_step_s(
    table: StepTable,
    num_decodes: int,
    decode_kv: int,
    num_prefills: int,
    prefill_tokens: int,
    prefill_kv: int,
    prefill_attention: float,
    chunks_s: float,
) -> float:
    """Seconds of one step; contexts before the step, ``chunks_s`` the sum of ``chunk_s``."""
    weights = table.weights
    tokens = min(num_decodes + prefill_tokens, table.token_s.size - 1)
    seqs = min(num_decodes + num_prefills, table.seq_s.size - 1)
    total = table.token_s[tokens] * table.seq_factor[seqs] + table.seq_s[seqs] + chunks_s
    total += weights[PREFILL_TOKENS] * prefill_tokens + weights[PREFILL_SEQS] * num_prefills
    total += weights[KV_TOKENS] * (decode_kv + prefill_kv)
    total += weights[PREFILL_ATTENTION] * prefill_attention
    if num_prefills > 0:
        total += weights[HAS_PREFILL]
    if num_decodes > 0:
        total += (weights[DECODE_TOKENS] + weights[DECODE_SEQS]) * num_decodes + weights[HAS_DECODE]
        if table.decode_s.size > 0:
            total += _decode_grid_s(table, num_decodes, decode_kv, 1)
    return total
