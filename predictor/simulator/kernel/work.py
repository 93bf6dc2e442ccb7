"""What a run of the kernel writes on: one set of arrays, used again for every question."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from predictor.simulator.kernel.layout import NUM_COLUMNS, Ints

# Columns of `slots`; the first NUM_COLUMNS are those of `rows`. A slot is a sequence's row number;
# newcomers come after the rows.
STATE = NUM_COLUMNS
BASE = NUM_COLUMNS + 1
"""Of a sequence in lockstep: computed tokens minus the step's number, a constant."""
END_STEP = NUM_COLUMNS + 2
"""The step at whose end its next event is due."""
PLACE = NUM_COLUMNS + 3
"""Where it stands in ``order``."""
CHUNK = NUM_COLUMNS + 4
"""Tokens granted in the step that is being planned."""
CACHED_AT = NUM_COLUMNS + 5
"""Of a preempted sequence: where in the free queue its cached blocks begin."""
CACHED_BLOCKS = NUM_COLUMNS + 6
"""Of a preempted sequence: how many it had."""
NUM_SLOT_COLUMNS = NUM_COLUMNS + 8

# States.
WAITING = 0
PREFILLING = 1
DECODING = 2
"""In lockstep: one token a step, until its event."""
LAST_STEP = 3
"""Has ended; its scheduler does not know it yet and lets it take part in one more step."""
HELD = 4
"""Has ended; it computes nothing more but holds its blocks and its place for one more step."""
PAUSED = 5
"""Would decode, but the step's budget went to others."""
ENDED = 6

# Places in `counters`.
STEP = 0
"""Number of the next step."""
NUM_DECODES = 1
DECODE_KV = 2
"""Sum of the contexts of the sequences in lockstep."""
NUM_RUNNING = 3
FREE = 4
"""Free blocks."""
HEAP_SIZE = 5
ORDER_SIZE = 6
NUM_PARTIALS = 7
NUM_PAUSED = 8
QUEUE_HEAD = 9
QUEUE_SIZE = 10
NUM_PREEMPTED = 11
"""Preempted sequences that wait."""
NUM_HELD = 12
POPPED = 13
"""Blocks taken from the free queue so far; those pushed to its front not counted."""
FRONT = 14
"""Blocks at the front of the free queue that hold nothing of use."""
BUDGET = 15
PREEMPTIONS = 16
OWN_PREEMPTIONS = 17
"""Of newcomers."""
NEWCOMERS_LEFT = 18
FIRST_NEWCOMER = 19
NEXT_MARK = 20
NUM_TRACED = 21
NUM_EVENTS = 22
PREEMPTIONS_MET = 23
"""Of anyone, before the newcomers had ended."""
NUM_COUNTERS = 24

SLOT_BITS = 20
"""Heap keys are ``step << SLOT_BITS | slot``."""
MAX_SLOTS = 1 << SLOT_BITS


class Work(NamedTuple):
    """Scratch memory for up to ``slots.shape[0]`` sequences."""

    slots: Ints
    heap: Ints
    order: Ints
    """Running slots in the scheduler's order, -1 where one has left."""
    partials: Ints
    """Slots with a prefill under way, in order."""
    paused: Ints
    queue: Ints
    """Waiting slots in the queue's order."""
    preempted: Ints
    """Preempted slots that wait, the next one last."""
    phases: Ints
    """How many sequences in lockstep have which ``BASE`` modulo the block size."""
    counters: Ints


def make_work(capacity: int, block_size: int) -> Work:
    """Arrays for ``capacity`` sequences.

    Raises:
        ValueError: more sequences than the kernel can number.
    """
    if capacity > MAX_SLOTS:
        raise ValueError(f"{capacity} sequences are more than the kernel's {MAX_SLOTS}")

    def ints(*shape: int) -> Ints:
        return np.zeros(shape, dtype=np.int64)

    return Work(
        slots=ints(capacity, NUM_SLOT_COLUMNS),
        heap=ints(8 * capacity),
        order=ints(4 * capacity),
        partials=ints(capacity),
        paused=ints(capacity),
        queue=ints(capacity),
        preempted=ints(capacity),
        phases=ints(block_size),
        counters=ints(NUM_COUNTERS),
    )
