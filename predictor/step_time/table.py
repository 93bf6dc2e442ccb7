"""The form in which the compiled what-if reads every step-time model.

A step with ``T`` tokens in ``N`` sequences takes, in seconds,

    token_s[T] * seq_factor[N] + seq_s[N] + weights . features
    + decode_s[n, ceil(mean context / granularity)] + sum of prefill_s[...] over prefill chunks

where ``n`` counts the chunks of one token (decodes). An empty ``decode_s`` or ``prefill_s`` adds
nothing. Analytic models need the sums alone; measured Vidur tables need the two grids.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CHUNK_STRIDE = 32
"""Prefill chunks are rounded up to this in ``prefill_s``."""

# Places in `weights`, in the features of `wire.snapshot.StepRecord`.
PREFILL_TOKENS = 0
DECODE_TOKENS = 1
PREFILL_SEQS = 2
DECODE_SEQS = 3
KV_TOKENS = 4
PREFILL_ATTENTION = 5
HAS_PREFILL = 6
HAS_DECODE = 7
NUM_WEIGHTS = 8


class StepTable(NamedTuple):
    """One unit's step times; arrays are C-contiguous."""

    token_s: NDArray[np.float64]
    """By the batch's tokens, from 0 to the most there can be."""
    seq_factor: NDArray[np.float64]
    """By the batch's sequences; multiplies ``token_s``."""
    seq_s: NDArray[np.float64]
    """By the batch's sequences."""
    weights: NDArray[np.float64]
    """Seconds per unit of each feature, see the places above."""
    decode_s: NDArray[np.float64]
    """[decodes, mean context in granules, rounded up]; shape (0, 0) for none. The context includes
    the token that is being computed."""
    prefill_s: NDArray[np.float64]
    """[context with the chunk in granules, chunk in strides], both rounded up; (0, 0) for none."""
    granularity: int
    """Tokens in a granule of context."""


def step_table(
    token_s: NDArray[np.float64],
    max_seqs: int,
    *,
    seq_factor: NDArray[np.float64] | None = None,
    seq_s: NDArray[np.float64] | None = None,
    weights: dict[int, float] | None = None,
    decode_s: NDArray[np.float64] | None = None,
    prefill_s: NDArray[np.float64] | None = None,
    granularity: int = 1,
) -> StepTable:
    """A table with everything that is not given left neutral."""
    all_weights = np.zeros(NUM_WEIGHTS)
    for place, seconds in (weights or {}).items():
        all_weights[place] = seconds
    empty = np.zeros((0, 0))
    return StepTable(
        token_s=token_s,
        seq_factor=np.ones(max_seqs + 1) if seq_factor is None else seq_factor,
        seq_s=np.zeros(max_seqs + 1) if seq_s is None else seq_s,
        weights=all_weights,
        decode_s=empty if decode_s is None else decode_s,
        prefill_s=empty if prefill_s is None else prefill_s,
        granularity=granularity,
    )
