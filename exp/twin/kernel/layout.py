"""The arrays that hold all engines of a fleet, and what their places mean.

A *slot* is a row of ``seqs``, wherever in the fleet its sequence is. Blocks are numbered through
the fleet; one more block for each engine is the head of the ring of its free blocks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.simulator.kernel.layout import Floats, Ints

NONE = -1
"""No slot, no block."""
NO_HASH = -(1 << 63)
"""Of a block that is not in the prefix cache."""

# Columns of `engines`.
NUM_RUNNING = 0
NUM_WAITING = 1
NUM_FREE = 2
"""Free blocks, cached ones included."""
FIRST_WAITING = 3
LAST_WAITING = 4
STEP = 5
"""Steps begun."""
CHANGES = 6
"""Counts everything that changes what the engine holds."""
FREE_HEAD = 7
"""The block that heads the ring of free ones."""
FIRST_BUCKET = 8
NUM_BUCKETS = 9
"""A power of two."""
TABLE = 10
"""Which step times it has."""
NEXT_FACTOR = 11
NUM_ABORTED = 12
"""Running sequences that leave when the step ends."""
IS_DOWN = 13
NUM_ENGINE_COLUMNS = 14

# Columns of `clocks`, in seconds.
STARTED_S = 0
"""When the batch in flight was started, or when the engine ran out of work."""
ENDS_S = 1
"""Infinite without a batch."""
EXPORT_EVERY_S = 2
"""The least time between two exports of the state that nobody asks for; 0 for none of these."""
EXPORTED_S = 3
EXPORT_STARTED_S = 4
"""``STARTED_S`` then."""
NUM_CLOCKS = 5

# Columns of `seqs`.
INDEX = 0
PROMPT = 1
TOKENS = 2
"""Prompt and generated tokens."""
COMPUTED = 3
"""Without those of the batch in flight."""
OUTPUT_LENGTH = 4
MAX_TOKENS = 5
PRIORITY = 6
FIRST_HASH = 7
"""Place in ``hashes``."""
NUM_HASHES = 8
KEPT = 9
"""Tokens whose KV came with it from another engine and is still to be put into blocks."""
CACHED_TOKENS = 10
"""Found in the prefix cache when first admitted; NONE before."""
PREEMPTIONS = 11
ARRIVAL = 12
"""Rank by arrival in the fleet."""
SEEN_STEP = 13
"""The first step whose scheduling sees it."""
CHUNK = 14
"""Tokens in flight."""
STATE = 15
ROW = 16
"""Of ``tables``, while it runs."""
NUM_BLOCKS = 17
NUM_CACHED_BLOCKS = 18
"""Leading blocks that are in the prefix cache."""
PREVIOUS = 19
NEXT = 20
"""In the queue, or the next free slot."""
HIT = 21
"""Of a waiting one: tokens that the prefix cache held when last looked up; NONE before."""
NUM_SEQ_COLUMNS = 22

# States of sequences.
WAITING = 0
PREEMPTED = 1
RUNNING = 2
ABORTED = 3
"""Runs until the step ends."""

# Columns of `blocks`.
REFERENCES = 0
HASH = 1
CHAIN = 2
"""The next block of the same bucket."""
BEFORE = 3
AFTER = 4
"""In the ring of free blocks."""
NUM_BLOCK_COLUMNS = 5

# Columns of `export_heads`.
EXPORT_RUNNING = 0
"""Rows of running sequences, which come first."""
EXPORT_WAITING = 1
EXPORT_LEFT_OUT = 2
"""Waiting sequences beyond those."""
EXPORT_FREE = 3
EXPORT_HAS_BATCH = 4
EXPORT_VERSION = 5
"""``CHANGES`` when the state was exported."""
NUM_EXPORT_HEADS = 6

MAX_EXPORTED_WAITING = 256
"""As in vLLM's plug-in."""

# Places in `counters`.
FREE_SLOT = 0
"""The first free slot, or NONE."""
EVENT_UNIT = 1
NUM_COUNTERS = 2

# Columns of `events`.
EVENT_KIND = 0
EVENT_INDEX = 1
EVENT_OUTPUT_TOKENS = 2
EVENT_CACHED_TOKENS = 3
EVENT_PREEMPTIONS = 4
EVENT_BY_LENGTH = 5
NUM_EVENT_COLUMNS = 6

# Kinds of events.
FIRST_TOKEN = 0
END = 1

# Columns of `sizes`.
TOKEN_SIZE = 0
SEQ_SIZE = 1
DECODE_ROWS = 2
DECODE_COLUMNS = 3
PREFILL_ROWS = 4
PREFILL_COLUMNS = 5
GRANULARITY = 6


class StepTables(NamedTuple):
    """The step tables of the fleet (``predictor/step_time/table.py``), padded to one size."""

    sizes: Ints
    """[table, size]"""
    token_s: Floats
    seq_factor: Floats
    seq_s: Floats
    weights: Floats
    decode_s: Floats
    prefill_s: Floats


class Fleet(NamedTuple):
    """All engines. Every array is written in place but for ``seqs`` and ``hashes``, which grow."""

    limits: Ints
    """[unit, place], as in ``predictor/simulator/kernel/layout.py``."""
    engines: Ints
    clocks: Floats
    running: Ints
    """[unit, place]: slots in the scheduler's order."""
    seats: Ints
    """[unit, place]: rows of ``tables``, from ``NUM_RUNNING`` on the free ones."""
    tables: NDArray[np.int32]
    """[row, place]: the blocks of a running sequence."""
    seqs: Ints
    blocks: Ints
    buckets: Ints
    """Of the prefix caches: the block that was cached first, or NONE."""
    hashes: Ints
    factors: Floats
    """[unit, place]: noise of step durations, used in turn."""
    steps: StepTables
    exports: Ints
    """[unit, row]: sequences as the engine last told of them, columns as in ``seqs``."""
    export_heads: Ints
    counters: Ints
    events: Ints
