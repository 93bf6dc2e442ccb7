"""Steps in which the order of the running sequences matters: tokens or blocks do not go round.

Mirrors the loop over ``self.running`` in ``vllm/v1/core/sched/scheduler.py`` (0.32), sequence by
sequence. All other steps are planned from counters alone.
"""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.layout import (
    ARRIVAL,
    ASYNC,
    BLOCK_SIZE,
    BY_PRIORITY,
    COMPUTED,
    MAX_NUM_BATCHED_TOKENS,
    PRIORITY,
    TOKENS,
    Ints,
)
from predictor.simulator.kernel.lockstep import (
    blocks_of,
    leave,
    release,
    schedule_event,
    take_blocks,
)
from predictor.simulator.kernel.work import (
    BASE,
    BUDGET,
    CHUNK,
    DECODING,
    END_STEP,
    ENDED,
    FIRST_NEWCOMER,
    FREE,
    HELD,
    LAST_STEP,
    NUM_HELD,
    NUM_PARTIALS,
    NUM_PAUSED,
    NUM_PREEMPTED,
    ORDER_SIZE,
    OWN_PREEMPTIONS,
    PAUSED,
    PREEMPTIONS,
    PREFILLING,
    STATE,
    STEP,
    WAITING,
    Work,
)


@seldom
def schedule_in_order(work: Work, limits: Ints, threshold: int) -> bool:
    """Grant tokens and blocks one by one; True if anyone was preempted.

    Decodes that get nothing are paused for this step.
    """
    slots, counters, preempted = work.slots, work.counters, False
    budget, place = limits[MAX_NUM_BATCHED_TOKENS], 0
    while place < counters[ORDER_SIZE] and budget > 0:
        slot = work.order[place]
        place += 1
        if slot < 0 or slots[slot, STATE] == HELD:
            continue
        count = 1
        if slots[slot, STATE] == PREFILLING:
            count = min(slots[slot, TOKENS] - slots[slot, COMPUTED], threshold, budget)
        is_victim = False
        while blocks_wanted(work, limits, slot, count) > counters[FREE] and not is_victim:
            victim = _choose_victim(work, limits)
            budget += slots[victim, CHUNK]
            is_victim = victim == slot
            preempt(work, limits, victim)
            preempted = True
        if is_victim:
            break
        take_blocks(work, limits, blocks_wanted(work, limits, slot, count))
        slots[slot, CHUNK] = count
        budget -= count
    counters[BUDGET] = budget
    _pause_the_rest(work, limits)
    return preempted


@inlined
def blocks_wanted(work: Work, limits: Ints, slot: int, count: int) -> int:
    """New blocks that a running sequence needs for ``count`` more tokens."""
    slots, block_size = work.slots, limits[BLOCK_SIZE]
    if slots[slot, STATE] == PREFILLING:
        computed = slots[slot, COMPUTED]
        return blocks_of(computed + count, block_size) - blocks_of(computed, block_size)
    return 1 if (slots[slot, BASE] + work.counters[STEP]) % block_size == 0 else 0


@inlined
def preempt(work: Work, limits: Ints, slot: int) -> None:
    """Send a running sequence back to the queue, to be computed anew.

    What it was granted in this step counts as computed: its blocks exist, and are cached.
    """
    slots, counters = work.slots, work.counters
    state = slots[slot, STATE]
    num_unknown: int = limits[ASYNC]
    if state == PREFILLING:
        _drop_partial(work, slot)
        num_unknown = 0
    elif state == HELD:
        counters[NUM_HELD] -= 1
    else:
        leave(work, limits, slot)
        if slots[slot, COMPUTED] + slots[slot, CHUNK] == slots[slot, TOKENS]:
            num_unknown = 0  # all of it was prompt
        # One token more is known than computed.
        slots[slot, TOKENS] = slots[slot, COMPUTED] + 1
    slots[slot, COMPUTED] += slots[slot, CHUNK]
    slots[slot, CHUNK] = 0
    release(work, limits, slot, num_unknown)
    counters[PREEMPTIONS] += 1
    if state in (LAST_STEP, HELD):  # over already
        slots[slot, STATE] = ENDED
        return
    if slot >= counters[FIRST_NEWCOMER]:
        counters[OWN_PREEMPTIONS] += 1
    slots[slot, STATE] = WAITING
    _queue_preempted(work, limits, slot)


@inlined
def is_before(work: Work, limits: Ints, slot: int, other: int) -> bool:
    """By priority: is ``slot`` admitted before ``other``?"""
    slots = work.slots
    if slots[slot, PRIORITY] != slots[other, PRIORITY]:
        return slots[slot, PRIORITY] < slots[other, PRIORITY]
    return slots[slot, ARRIVAL] < slots[other, ARRIVAL]


@inlined
def _choose_victim(work: Work, limits: Ints) -> int:
    """The last running sequence; by priority the least urgent one."""
    victim = work.order[work.counters[ORDER_SIZE] - 1]
    if limits[BY_PRIORITY] == 0:
        return victim
    for place in range(work.counters[ORDER_SIZE]):
        slot = work.order[place]
        if slot >= 0 and is_before(work, limits, victim, slot):
            victim = slot
    return victim


@inlined
def _queue_preempted(work: Work, limits: Ints, slot: int) -> None:
    """The next one to be admitted stands last."""
    counters, stack = work.counters, work.preempted
    place = counters[NUM_PREEMPTED]
    if limits[BY_PRIORITY] == 1:
        while place > 0 and is_before(work, limits, stack[place - 1], slot):
            stack[place] = stack[place - 1]
            place -= 1
    stack[place] = slot
    counters[NUM_PREEMPTED] += 1


@inlined
def _drop_partial(work: Work, slot: int) -> None:
    counters, partials = work.counters, work.partials
    place = 0
    while partials[place] != slot:
        place += 1
    for index in range(place + 1, counters[NUM_PARTIALS]):
        partials[index - 1] = partials[index]
    counters[NUM_PARTIALS] -= 1


@inlined
def _pause_the_rest(work: Work, limits: Ints) -> None:
    slots, counters = work.slots, work.counters
    for place in range(counters[ORDER_SIZE]):
        slot = work.order[place]
        if slot < 0 or not DECODING <= slots[slot, STATE] <= LAST_STEP:
            continue
        if slots[slot, CHUNK] == 1:
            slots[slot, CHUNK] = 0
        elif slots[slot, STATE] == DECODING:
            leave(work, limits, slot)
            slots[slot, STATE] = PAUSED
            slots[slot, END_STEP] = -1
            work.paused[counters[NUM_PAUSED]] = slot
            counters[NUM_PAUSED] += 1
        else:
            leave(work, limits, slot)
            slots[slot, STATE] = HELD
            counters[NUM_HELD] += 1
            schedule_event(work, slot, counters[STEP])
