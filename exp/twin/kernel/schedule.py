"""Which sequences compute how many tokens in a step.

The rules are those of ``predictor/simulator/scheduler.py``, with one batch at a time.
"""

from __future__ import annotations

from exp.twin.kernel.blocks import blocks_of, extend, find_prefix, hold_prefix, release
from exp.twin.kernel.layout import (
    CACHED_TOKENS,
    CHUNK,
    COMPUTED,
    FIRST_WAITING,
    HIT,
    KEPT,
    NONE,
    NUM_BLOCKS,
    NUM_FREE,
    NUM_RUNNING,
    NUM_WAITING,
    PREEMPTED,
    PREEMPTIONS,
    ROW,
    RUNNING,
    STATE,
    TOKENS,
    Fleet,
)
from exp.twin.kernel.queue import enqueue, is_before, leave_queue
from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.layout import (
    BLOCK_SIZE,
    BY_PRIORITY,
    CHUNKED_PREFILL,
    LONG_PREFILL_THRESHOLD,
    MAX_MODEL_LEN,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
)


@inlined
def schedule(fleet: Fleet, unit: int) -> bool:
    """Give each running sequence its ``CHUNK``; False if nothing can be done."""
    engines = fleet.engines
    threshold = _long_prefill_threshold(fleet, unit)
    budget, num_preempted = _schedule_running(fleet, unit, threshold)
    if num_preempted == 0:
        _schedule_waiting(fleet, unit, threshold, budget)
    return num_preempted > 0 or engines[unit, NUM_RUNNING] > 0


@inlined
def _long_prefill_threshold(fleet: Fleet, unit: int) -> int:
    """The cap on one sequence's chunk; it does not bind a sequence that is alone."""
    engines, threshold = fleet.engines, fleet.limits[unit, LONG_PREFILL_THRESHOLD]
    if threshold == 0 or engines[unit, NUM_RUNNING] + engines[unit, NUM_WAITING] <= 1:
        return fleet.limits[unit, MAX_MODEL_LEN]
    return threshold


@inlined
def _schedule_running(fleet: Fleet, unit: int, threshold: int) -> tuple[int, int]:
    """(what is left of the budget, sequences preempted)."""
    engines, seqs, block_size = fleet.engines, fleet.seqs, fleet.limits[unit, BLOCK_SIZE]
    budget, num_preempted = fleet.limits[unit, MAX_NUM_BATCHED_TOKENS], 0
    place = 0
    while place < engines[unit, NUM_RUNNING] and budget > 0:
        slot = fleet.running[unit, place]
        computed = seqs[slot, COMPUTED]
        count = min(seqs[slot, TOKENS] - computed, threshold, budget)
        is_victim = False
        if computed + count > seqs[slot, NUM_BLOCKS] * block_size:
            need = blocks_of(computed + count, block_size) - seqs[slot, NUM_BLOCKS]
            while need > engines[unit, NUM_FREE] and not is_victim:
                victim_place = _choose_victim(fleet, unit)
                is_victim = fleet.running[unit, victim_place] == slot
                budget += preempt(fleet, unit, victim_place)
                num_preempted += 1
                place -= victim_place < place
        if is_victim:
            break
        extend(fleet, unit, slot, computed + count)
        seqs[slot, CHUNK] = count
        budget -= count
        place += 1
    return budget, num_preempted


@seldom
def _choose_victim(fleet: Fleet, unit: int) -> int:
    """The place of the last running sequence; by priority that of the least urgent one."""
    num_running = fleet.engines[unit, NUM_RUNNING]
    if fleet.limits[unit, BY_PRIORITY] == 0:
        return num_running - 1
    victim = 0
    for place in range(1, num_running):
        if is_before(fleet.seqs, fleet.running[unit, victim], fleet.running[unit, place]):
            victim = place
    return victim


@seldom
def preempt(fleet: Fleet, unit: int, place: int) -> int:
    """Send a running sequence back to the front of the queue, to be computed anew.

    Returns the tokens that it had been given in this step.
    """
    seqs, slot = fleet.seqs, fleet.running[unit, place]
    count = seqs[slot, CHUNK]
    stop_running(fleet, unit, place)
    seqs[slot, STATE] = PREEMPTED
    seqs[slot, HIT] = NONE
    seqs[slot, PREEMPTIONS] += 1
    enqueue(fleet, unit, slot, True)
    return count


@seldom
def stop_running(fleet: Fleet, unit: int, place: int) -> None:
    """Take a sequence from among the running ones, and its blocks."""
    engines, running = fleet.engines, fleet.running
    slot = running[unit, place]
    release(fleet, unit, slot)
    fleet.seqs[slot, CHUNK] = 0
    engines[unit, NUM_RUNNING] -= 1
    last = engines[unit, NUM_RUNNING]
    for other in range(place, last):
        running[unit, other] = running[unit, other + 1]
    fleet.seats[unit, last] = fleet.seqs[slot, ROW]


@inlined
def _schedule_waiting(fleet: Fleet, unit: int, threshold: int, budget: int) -> None:
    """Admit from the front of the queue until one does not fit: nobody overtakes it."""
    engines = fleet.engines
    most = fleet.limits[unit, MAX_NUM_SEQS]
    count = 1
    while count > 0 and engines[unit, NUM_RUNNING] < most and budget > 0:
        slot = engines[unit, FIRST_WAITING]
        if slot == NONE:
            break
        count = _try_admit(fleet, unit, slot, threshold, budget)
        budget -= count


@seldom
def _try_admit(fleet: Fleet, unit: int, slot: int, threshold: int, budget: int) -> int:
    """Tokens of the first chunk, or 0 if it must wait: all of its tokens must fit."""
    engines, seqs, block_size = fleet.engines, fleet.seqs, fleet.limits[unit, BLOCK_SIZE]
    num_running = engines[unit, NUM_RUNNING]
    row = fleet.seats[unit, num_running]
    num_hits, num_free_hits = find_prefix(fleet, unit, slot, row)
    computed = max(num_hits * block_size, seqs[slot, KEPT])
    count = min(seqs[slot, TOKENS] - computed, threshold)
    if count > budget and fleet.limits[unit, CHUNKED_PREFILL] == 0:
        return 0
    count = min(count, budget)
    need = blocks_of(seqs[slot, TOKENS], block_size) - num_hits + num_free_hits
    if need > engines[unit, NUM_FREE]:
        return 0
    leave_queue(fleet, unit, slot)
    fleet.running[unit, num_running] = slot
    engines[unit, NUM_RUNNING] = num_running + 1
    seqs[slot, ROW] = row
    hold_prefix(fleet, unit, slot, num_hits)
    extend(fleet, unit, slot, computed + count)
    seqs[slot, STATE] = RUNNING
    seqs[slot, COMPUTED] = computed
    seqs[slot, CHUNK] = count
    seqs[slot, KEPT] = 0
    if seqs[slot, CACHED_TOKENS] == NONE:
        seqs[slot, CACHED_TOKENS] = num_hits * block_size
    return count
