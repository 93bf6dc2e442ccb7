"""Puts an engine's state and the newcomers into the scratch memory."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined
from predictor.simulator.kernel.in_order import is_before
from predictor.simulator.kernel.layout import (
    BLOCK_SIZE,
    BY_PRIORITY,
    COMPUTED,
    ENDS_BY_LENGTH,
    HITS_BEGIN,
    HITS_END,
    NEVER,
    NUM_COLUMNS,
    PREFIX_CACHING,
    PROMPT,
    REMAINING,
    TOKENS,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lockstep import append_running, hold, join
from predictor.simulator.kernel.work import (
    CACHED_AT,
    CACHED_BLOCKS,
    CHUNK,
    FIRST_NEWCOMER,
    FREE,
    NEWCOMERS_LEFT,
    NUM_PARTIALS,
    PREFILLING,
    QUEUE_SIZE,
    STATE,
    WAITING,
    Work,
)


@inlined
def start_run(
    work: Work,
    limits: Ints,
    rows: Ints,
    num_running: int,
    num_free_blocks: int,
    newcomers: Ints,
    times: Floats,
) -> None:
    """Lay out the running and the waiting sequences, and the newcomers in the queue."""
    slots, counters = work.slots, work.counters
    counters[:] = 0
    work.phases[:] = 0
    times[:, :] = NEVER
    num_rows = rows.shape[0]
    # Loops: numba copies a slice aside before it assigns it.
    for slot in range(num_rows):
        for column in range(NUM_COLUMNS):
            slots[slot, column] = rows[slot, column]
    for index in range(newcomers.shape[0]):
        for column in range(NUM_COLUMNS):
            slots[num_rows + index, column] = newcomers[index, column]
    counters[FREE] = num_free_blocks
    counters[FIRST_NEWCOMER] = num_rows
    counters[NEWCOMERS_LEFT] = newcomers.shape[0]
    for slot in range(num_running):
        _start_running(work, limits, slot)
    for slot in range(num_running, num_rows + newcomers.shape[0]):
        slots[slot, STATE] = WAITING
        slots[slot, CHUNK] = 0
        _enqueue(work, limits, slot)
    _lay_into_cache(work, limits, num_running, num_rows + newcomers.shape[0])


@inlined
def _start_running(work: Work, limits: Ints, slot: int) -> None:
    slots, counters = work.slots, work.counters
    tokens, has_ended = slots[slot, TOKENS], slots[slot, REMAINING] == 0
    has_output = tokens > slots[slot, PROMPT]
    slots[slot, CHUNK] = 0
    append_running(work, slot)
    if has_ended and slots[slot, ENDS_BY_LENGTH] == 1:
        hold(work, slot)
    elif has_ended or (has_output and slots[slot, COMPUTED] == tokens - 1):
        join(work, limits, slot)
    else:
        slots[slot, STATE] = PREFILLING
        work.partials[counters[NUM_PARTIALS]] = slot
        counters[NUM_PARTIALS] += 1


@inlined
def _lay_into_cache(work: Work, limits: Ints, first: int, last: int) -> None:
    """Put what waiting sequences hit at the end of the free queue; ``live_state`` does the same.

    Where exactly it stands is not known. The first sequence's blocks are taken by others last.
    """
    slots, end = work.slots, limits[HITS_END]
    for slot in range(first, last):
        count = slots[slot, COMPUTED] // limits[BLOCK_SIZE]
        if limits[PREFIX_CACHING] == 1:
            count = min(count, end - limits[HITS_BEGIN])
            end -= count
        slots[slot, CACHED_BLOCKS] = count
        slots[slot, CACHED_AT] = end


@inlined
def _enqueue(work: Work, limits: Ints, slot: int) -> None:
    """At the queue's end; by priority before those that are less urgent."""
    counters, queue = work.counters, work.queue
    place = counters[QUEUE_SIZE]
    if limits[BY_PRIORITY] == 1:
        while place > 0 and is_before(work, limits, slot, queue[place - 1]):
            queue[place] = queue[place - 1]
            place -= 1
    queue[place] = slot
    counters[QUEUE_SIZE] += 1
