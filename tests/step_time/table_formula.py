"""The formula of ``predictor/step_time/table.py``, written down once more without the kernel."""

from __future__ import annotations

import random

from predictor.step_time import table
from predictor.step_time.base import BatchShape, batch_shape
from predictor.step_time.table import StepTable


def evaluate(step: StepTable, shape: BatchShape) -> float:
    """Seconds of a batch, which must not be larger than the table."""
    features = {
        table.PREFILL_TOKENS: shape.num_prefill_tokens,
        table.DECODE_TOKENS: shape.num_decode_tokens,
        table.PREFILL_SEQS: shape.num_prefill_seqs,
        table.DECODE_SEQS: shape.num_decode_seqs,
        table.KV_TOKENS: shape.num_kv_tokens,
        table.PREFILL_ATTENTION: shape.prefill_attention,
        table.HAS_PREFILL: shape.num_prefill_seqs > 0,
        table.HAS_DECODE: shape.num_decode_seqs > 0,
    }
    total = step.token_s[shape.num_tokens] * step.seq_factor[shape.num_seqs]
    total += step.seq_s[shape.num_seqs]
    total += sum(step.weights[place] * amount for place, amount in features.items())
    if step.decode_s.size and shape.num_decode_seqs:
        decode_kv = shape.num_kv_tokens - sum(context for _, context in shape.prefill_chunks)
        mean = decode_kv // shape.num_decode_seqs + 1
        total += step.decode_s[shape.num_decode_seqs, -(-mean // step.granularity)]
    if step.prefill_s.size:
        for tokens, context in shape.prefill_chunks:
            granule = -(-(context + tokens) // step.granularity)
            total += step.prefill_s[granule, -(-tokens // table.CHUNK_STRIDE)]
    return float(total)


def random_shapes(
    num: int, max_tokens: int = 512, max_seqs: int = 48, max_context: int = 4096, seed: int = 0
) -> list[BatchShape]:
    """Batches with decodes only, prefills only and both; the first is empty."""
    rng = random.Random(seed)
    shapes = [BatchShape()]
    while len(shapes) < num:
        decodes = rng.choice([0, 1, rng.randint(0, max_seqs - 4)])
        budget = max_tokens - decodes
        prefills = []
        for _ in range(rng.choice([0, 1, 1, 4]) if decodes else 1):
            tokens = rng.randint(2, max(2, budget // 4))
            prefills.append((tokens, rng.randint(0, max_context - tokens)))
        contexts = [rng.randint(1, max_context - 1) for _ in range(decodes)]
        shapes.append(batch_shape(prefills, contexts))
    return shapes
