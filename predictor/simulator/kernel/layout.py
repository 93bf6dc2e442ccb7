"""The arrays that the compiled what-if works on.

``rows`` is one C-contiguous int64 array with a row for each sequence and the columns below: first
the running sequences in the scheduler's order, then the waiting ones in the queue's. It holds the
state at the moment when the batches in flight have ended.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wire.snapshot import EngineLimits

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

# Columns of `rows`.
TOKENS = 0
"""Prompt and generated tokens."""
COMPUTED = 1
"""Tokens in the KV cache; for a waiting sequence those that the prefix cache would spare."""
REMAINING = 2
"""Output tokens still to come. 0 for one that has just ended without its scheduler knowing it
(async scheduling): it takes part in one more step."""
ENDS_BY_LENGTH = 3
"""1 if the last token is the last that the request may have, which a scheduler knows beforehand."""
PRIORITY = 4
ARRIVAL = 5
"""Rank by arrival; smaller is earlier."""
PROMPT = 6
"""Prompt tokens."""
SHARED_BLOCKS = 7
"""KV blocks that a running sequence holds together with an earlier one."""
NUM_COLUMNS = 8

# Places in `limits`.
MAX_NUM_SEQS = 0
MAX_NUM_BATCHED_TOKENS = 1
MAX_MODEL_LEN = 2
BLOCK_SIZE = 3
NUM_BLOCKS = 4
LONG_PREFILL_THRESHOLD = 5
CHUNKED_PREFILL = 6
PREFIX_CACHING = 7
BY_PRIORITY = 8
ASYNC = 9
# No limits, but figures beside the rows: among which of the free blocks, in the order in which they
# will be taken, those are that waiting sequences hit. Full blocks of what ends in flight follow.
HITS_BEGIN = 10
HITS_END = 11
NUM_LIMITS = 12

# Columns of `times`, in seconds from now; NEVER until it happens.
QUEUE = 0
"""When a sequence was first scheduled."""
FIRST_TOKEN = 1
"""When the first token since now was out."""
END = 2
NUM_TIMES = 3
NEVER = -1.0


class EngineArrays(NamedTuple):
    """An engine's state for the kernel."""

    limits: Ints
    rows: Ints
    num_running: int
    num_free_blocks: int


def limits_array(limits: EngineLimits, hits_begin: int, hits_end: int) -> Ints:
    """The limits as the kernel reads them, and the two figures with them."""
    values = np.zeros(NUM_LIMITS, dtype=np.int64)
    values[MAX_NUM_SEQS] = limits.max_num_seqs
    values[MAX_NUM_BATCHED_TOKENS] = limits.max_num_batched_tokens
    values[MAX_MODEL_LEN] = limits.max_model_len
    values[BLOCK_SIZE] = limits.block_size
    values[NUM_BLOCKS] = limits.num_gpu_blocks
    values[LONG_PREFILL_THRESHOLD] = limits.long_prefill_token_threshold
    values[CHUNKED_PREFILL] = limits.enable_chunked_prefill
    values[PREFIX_CACHING] = limits.enable_prefix_caching
    values[BY_PRIORITY] = limits.scheduling_policy == "priority"
    values[ASYNC] = limits.async_scheduling
    values[HITS_BEGIN] = hits_begin
    values[HITS_END] = hits_end
    return values
