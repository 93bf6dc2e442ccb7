"""Carrying out what a scheduler's rules have planned: one step with prefills, or many without."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import inlined
from predictor.simulator.kernel.layout import (
    BLOCK_SIZE,
    COMPUTED,
    FIRST_TOKEN,
    NEVER,
    REMAINING,
    TOKENS,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lockstep import (
    end_at_prefill,
    join,
    next_event_step,
    reached_last,
    take_blocks,
)
from predictor.simulator.kernel.step_cost import chunk_s, decode_steps_s, mixed_step_s
from predictor.simulator.kernel.work import (
    CHUNK,
    DECODE_KV,
    FREE,
    NUM_DECODES,
    NUM_PARTIALS,
    NUM_PREEMPTED,
    NUM_RUNNING,
    QUEUE_HEAD,
    QUEUE_SIZE,
    STEP,
    Work,
)
from predictor.step_time.table import StepTable


@inlined
def has_work(work: Work) -> bool:
    """Is anything running or waiting?"""
    counters = work.counters
    waiting = counters[QUEUE_HEAD] < counters[QUEUE_SIZE] or counters[NUM_PREEMPTED] > 0
    return counters[NUM_RUNNING] > 0 or waiting


@inlined
def has_chunks(work: Work) -> bool:
    """Was any prefill granted tokens?"""
    for index in range(work.counters[NUM_PARTIALS]):
        if work.slots[work.partials[index], CHUNK] > 0:
            return True
    return False


@inlined
def run_mixed_step(work: Work, table: StepTable, extra_kv: int = 0) -> float:
    """Compute the chunks that were granted, and a token of each decode; its seconds.

    A chunk of one token is a decode to the attention kernels. ``extra_kv`` tokens are counted to
    each decode's context.
    """
    slots, counters = work.slots, work.counters
    num_decodes = counters[NUM_DECODES]
    decode_kv = counters[DECODE_KV] + extra_kv * num_decodes
    num_prefills, tokens, kv, attention, grid_s = 0, 0, 0, 0.0, 0.0
    for index in range(counters[NUM_PARTIALS]):
        slot = work.partials[index]
        count, context = slots[slot, CHUNK], slots[slot, COMPUTED]
        if count == 1:
            num_decodes += 1
            decode_kv += context
        elif count > 1:
            num_prefills += 1
            tokens += count
            kv += context
            attention += count * (context + 0.5 * count)
            grid_s += chunk_s(table, count, context)
    counters[STEP] += 1
    counters[DECODE_KV] += counters[NUM_DECODES]
    return mixed_step_s(table, num_decodes, decode_kv, num_prefills, tokens, kv, attention, grid_s)


@inlined
def finish_chunks(
    work: Work, limits: Ints, times: Floats, clock_s: float, marks: Ints, marked_s: Floats
) -> None:
    """Count chunks as computed; whose last known token was among them has got a new one."""
    slots, counters, kept = work.slots, work.counters, 0
    num_partials = counters[NUM_PARTIALS]
    for index in range(num_partials):
        slot = work.partials[index]
        slots[slot, COMPUTED] += slots[slot, CHUNK]
        slots[slot, CHUNK] = 0
        if slots[slot, COMPUTED] < slots[slot, TOKENS]:
            work.partials[kept] = slot
            kept += 1
            continue
        if times[slot, FIRST_TOKEN] == NEVER:
            times[slot, FIRST_TOKEN] = clock_s
        slots[slot, REMAINING] -= 1
        if slots[slot, REMAINING] > 0:
            join(work, limits, slot)
        elif reached_last(work, times, slot, clock_s, marks, marked_s):
            end_at_prefill(work, limits, slot)
        else:
            join(work, limits, slot)
    counters[NUM_PARTIALS] = kept


@inlined
def run_decode_steps(
    work: Work,
    limits: Ints,
    table: StepTable,
    single: bool,
    longest_step_s: Floats,
    extra_kv: int = 0,
    spare_blocks: int = 0,
) -> float:
    """Decode until the next event, or for a single step; seconds. The first step has its blocks.

    Stops before a step that would leave fewer than ``spare_blocks`` free.
    """
    counters = work.counters
    num_decodes = counters[NUM_DECODES]
    kv = counters[DECODE_KV] + extra_kv * num_decodes
    num_steps = 1
    if not single:
        most = next_event_step(work) - counters[STEP] + 1
        num_steps = _steps_with_blocks(work, limits, most, spare_blocks)
    took_s = decode_steps_s(table, num_decodes, kv, num_steps)
    last_kv = kv + num_decodes * (num_steps - 1)
    last_s = took_s if num_steps == 1 else decode_steps_s(table, num_decodes, last_kv, 1)
    longest_step_s[0] = max(longest_step_s[0], last_s)
    counters[STEP] += num_steps
    counters[DECODE_KV] += num_decodes * num_steps
    return took_s


@inlined
def _steps_with_blocks(work: Work, limits: Ints, num_steps: int, spare_blocks: int) -> int:
    """Up to ``num_steps`` steps, as far as blocks go; takes those of all but the first."""
    counters, block_size = work.counters, limits[BLOCK_SIZE]
    most = counters[FREE] - spare_blocks
    if most < 0:
        return 1
    # In each period of a block's length every sequence needs one block.
    periods = min((num_steps - 1) // block_size, most // counters[NUM_DECODES])
    need, step = periods * counters[NUM_DECODES], 1 + periods * block_size
    place = -(counters[STEP] + step) % block_size
    while step < num_steps and need + work.phases[place] <= most:
        need += work.phases[place]
        step += 1
        place = place - 1 if place > 0 else block_size - 1
    take_blocks(work, limits, need)
    return step
