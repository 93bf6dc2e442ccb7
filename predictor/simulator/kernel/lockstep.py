"""Sequences that decode advance together: counters, a histogram and a heap stand for them all."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.heap import pop, push
from predictor.simulator.kernel.layout import (
    ASYNC,
    BLOCK_SIZE,
    COMPUTED,
    END,
    ENDS_BY_LENGTH,
    PREFIX_CACHING,
    REMAINING,
    SHARED_BLOCKS,
    Floats,
    Ints,
)
from predictor.simulator.kernel.work import (
    BASE,
    CACHED_AT,
    CACHED_BLOCKS,
    DECODE_KV,
    DECODING,
    END_STEP,
    ENDED,
    FIRST_NEWCOMER,
    FREE,
    FRONT,
    HEAP_SIZE,
    HELD,
    LAST_STEP,
    NEWCOMERS_LEFT,
    NEXT_MARK,
    NUM_DECODES,
    NUM_HELD,
    NUM_RUNNING,
    ORDER_SIZE,
    PLACE,
    POPPED,
    PREEMPTIONS,
    PREEMPTIONS_MET,
    SLOT_BITS,
    STATE,
    STEP,
    Work,
)


@inlined
def blocks_of(num_tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return (num_tokens + block_size - 1) // block_size


@inlined
def join(work: Work, limits: Ints, slot: int) -> None:
    """Let a sequence decode from the next step on, for its ``REMAINING`` tokens.

    With none remaining it takes part in one step more.
    """
    slots, counters = work.slots, work.counters
    computed, remaining, step = slots[slot, COMPUTED], slots[slot, REMAINING], counters[STEP]
    base = computed - step
    slots[slot, BASE] = base
    work.phases[base % limits[BLOCK_SIZE]] += 1
    counters[NUM_DECODES] += 1
    counters[DECODE_KV] += computed
    if remaining > 0:
        slots[slot, STATE] = DECODING
        schedule_event(work, slot, step + remaining - 1)
    else:
        slots[slot, STATE] = LAST_STEP
        schedule_event(work, slot, step)


@inlined
def leave(work: Work, limits: Ints, slot: int) -> None:
    """Take a sequence out of the lockstep; its counts are then those at the next step's start."""
    slots, counters = work.slots, work.counters
    base, step = slots[slot, BASE], counters[STEP]
    slots[slot, COMPUTED] = base + step
    slots[slot, REMAINING] = slots[slot, END_STEP] - step + 1
    work.phases[base % limits[BLOCK_SIZE]] -= 1
    counters[NUM_DECODES] -= 1
    counters[DECODE_KV] -= base + step


@inlined
def schedule_event(work: Work, slot: int, step: int) -> None:
    """Make ``step`` the one at whose end the slot's next event is due."""
    counters = work.counters
    work.slots[slot, END_STEP] = step
    if counters[HEAP_SIZE] == work.heap.size:
        _drop_outdated(work)
    counters[HEAP_SIZE] = push(work.heap, counters[HEAP_SIZE], (step << SLOT_BITS) | slot)


@inlined
def next_event_step(work: Work) -> int:
    """The step of the next event, or -1 if there is none."""
    counters = work.counters
    while counters[HEAP_SIZE] > 0:
        key = work.heap[0]
        if _is_current(work, key):
            return key >> SLOT_BITS
        counters[HEAP_SIZE] = pop(work.heap, counters[HEAP_SIZE])
    return -1


@inlined
def end_due(
    work: Work, limits: Ints, times: Floats, clock_s: float, marks: Ints, marked_s: Floats
) -> None:
    """Carry out the events of all steps before the next one; ``clock_s`` is the last one's end."""
    slots, counters = work.slots, work.counters
    while counters[HEAP_SIZE] > 0 and work.heap[0] >> SLOT_BITS < counters[STEP]:
        key = work.heap[0]
        counters[HEAP_SIZE] = pop(work.heap, counters[HEAP_SIZE])
        if not _is_current(work, key):
            continue
        slot = key & ((1 << SLOT_BITS) - 1)
        state = slots[slot, STATE]
        if state == DECODING:
            if reached_last(work, times, slot, clock_s, marks, marked_s):
                _end_decoding(work, limits, slot)
            else:
                schedule_event(work, slot, counters[STEP] + slots[slot, REMAINING] - 1)
        elif state == LAST_STEP:
            leave(work, limits, slot)
            release(work, limits, slot, limits[ASYNC])
        else:
            counters[NUM_HELD] -= 1
            release(work, limits, slot)


@inlined
def reached_last(
    work: Work, times: Floats, slot: int, clock_s: float, marks: Ints, marked_s: Floats
) -> bool:
    """Note that a sequence has got its last token; False if it was a mark and more are to come.

    Marks are output lengths of the one newcomer: what happens up to the shorter ones does not
    depend on whether it goes on, so one run times them all.
    """
    counters = work.counters
    if slot >= counters[FIRST_NEWCOMER]:
        if marks.size > 0:
            mark = counters[NEXT_MARK]
            marked_s[mark] = clock_s
            counters[NEXT_MARK] = mark + 1
            if mark + 1 < marks.size:
                work.slots[slot, REMAINING] = marks[mark + 1] - marks[mark]
                return False
        counters[NEWCOMERS_LEFT] -= 1
        counters[PREEMPTIONS_MET] = counters[PREEMPTIONS]
    times[slot, END] = clock_s
    return True


@inlined
def end_at_prefill(work: Work, limits: Ints, slot: int) -> None:
    """A sequence has ended with the token that its prefill brought; it is not in lockstep."""
    if limits[ASYNC] == 0:
        release(work, limits, slot, limits[ASYNC])
    elif work.slots[slot, ENDS_BY_LENGTH] == 1:
        hold(work, slot)
    else:
        work.slots[slot, REMAINING] = 0
        join(work, limits, slot)


@inlined
def release(work: Work, limits: Ints, slot: int, num_unknown: int = 0) -> None:
    """Take a sequence out of the running ones and free its blocks.

    Where blocks are cached, full ones go to the end of the free queue, the last one first, and
    others to its front. Until they are taken from there a preempted sequence can have them back.
    ``num_unknown`` of its computed tokens are still being sampled, and so fill no block.
    """
    slots, counters = work.slots, work.counters
    computed, block_size = slots[slot, COMPUTED], limits[BLOCK_SIZE]
    num_blocks = blocks_of(computed, block_size) - slots[slot, SHARED_BLOCKS]
    slots[slot, CACHED_BLOCKS] = 0
    if limits[PREFIX_CACHING] == 1:
        num_full = max(0, computed - num_unknown) // block_size
        slots[slot, CACHED_AT] = counters[FREE] - counters[FRONT] + counters[POPPED]
        slots[slot, CACHED_BLOCKS] = num_full
        counters[FRONT] += max(0, num_blocks - num_full)
    counters[FREE] += num_blocks
    slots[slot, SHARED_BLOCKS] = 0
    slots[slot, STATE] = ENDED
    counters[NUM_RUNNING] -= 1
    work.order[slots[slot, PLACE]] = -1
    while counters[ORDER_SIZE] > 0 and work.order[counters[ORDER_SIZE] - 1] < 0:
        counters[ORDER_SIZE] -= 1


@inlined
def take_blocks(work: Work, limits: Ints, count: int) -> None:
    """Take free blocks from the front of the free queue."""
    counters = work.counters
    counters[FREE] -= count
    if limits[PREFIX_CACHING] == 1:
        from_front = min(count, counters[FRONT])
        counters[FRONT] -= from_front
        counters[POPPED] += count - from_front


@inlined
def append_running(work: Work, slot: int) -> None:
    """Put a sequence behind the running ones."""
    counters = work.counters
    if counters[ORDER_SIZE] == work.order.size:
        _close_gaps(work)
    work.order[counters[ORDER_SIZE]] = slot
    work.slots[slot, PLACE] = counters[ORDER_SIZE]
    counters[ORDER_SIZE] += 1
    counters[NUM_RUNNING] += 1


@inlined
def _end_decoding(work: Work, limits: Ints, slot: int) -> None:
    if limits[ASYNC] == 1 and work.slots[slot, ENDS_BY_LENGTH] == 0:
        work.slots[slot, STATE] = LAST_STEP
        schedule_event(work, slot, work.counters[STEP])
        return
    leave(work, limits, slot)
    if limits[ASYNC] == 1:
        hold(work, slot)
    else:
        release(work, limits, slot, limits[ASYNC])


@inlined
def hold(work: Work, slot: int) -> None:
    """Let a sequence that has ended keep its blocks and its place for one more step."""
    work.slots[slot, STATE] = HELD
    work.counters[NUM_HELD] += 1
    schedule_event(work, slot, work.counters[STEP])


@inlined
def _is_current(work: Work, key: int) -> bool:
    """False for an event of a sequence that was preempted, paused or sent on meanwhile."""
    slot = key & ((1 << SLOT_BITS) - 1)
    state = work.slots[slot, STATE]
    in_heap = DECODING <= state <= HELD
    return in_heap and work.slots[slot, END_STEP] == key >> SLOT_BITS


@seldom
def _drop_outdated(work: Work) -> None:
    """Make room in a full heap: each slot has one event that counts, maybe more than once."""
    counters, heap, size = work.counters, work.heap, work.counters[HEAP_SIZE]
    for left in range(size, 0, -1):
        smallest = heap[0]
        pop(heap, left)
        heap[left - 1] = smallest
    for index in range(size // 2):  # from falling to rising, which is a heap
        heap[index], heap[size - 1 - index] = heap[size - 1 - index], heap[index]
    kept = 0
    for index in range(size):
        key = heap[index]
        if _is_current(work, key) and (kept == 0 or heap[kept - 1] != key):
            heap[kept] = key
            kept += 1
    counters[HEAP_SIZE] = kept


@seldom
def _close_gaps(work: Work) -> None:
    counters, kept = work.counters, 0
    for place in range(counters[ORDER_SIZE]):
        slot = work.order[place]
        if slot >= 0:
            work.order[kept] = slot
            work.slots[slot, PLACE] = kept
            kept += 1
    counters[ORDER_SIZE] = kept
