"""The rules of vLLM V1's scheduler (0.32), jumping from event to event.

``predictor/simulator/scheduler.py`` has the same rules step by step, and is easier to read. Here
only events cost time: an end, an admission, a prefill chunk, running out of blocks. Between them
all running sequences decode in lockstep, which takes a few additions however many they are.

Blocks are counted, not named. So the kernel knows the prefix-cache hits that waiting sequences had
at the start and those of preempted ones on themselves, but not hits on what others compute later.
"""

from __future__ import annotations

from predictor.simulator.kernel.compiled import entry, forget_outdated, inlined, seldom
from predictor.simulator.kernel.in_order import (
    blocks_wanted,
    is_before,
    preempt,
    schedule_in_order,
)
from predictor.simulator.kernel.layout import (
    BLOCK_SIZE,
    BY_PRIORITY,
    CHUNKED_PREFILL,
    COMPUTED,
    LONG_PREFILL_THRESHOLD,
    MAX_MODEL_LEN,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NEVER,
    PREFIX_CACHING,
    QUEUE,
    TOKENS,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lockstep import (
    append_running,
    blocks_of,
    end_due,
    join,
    take_blocks,
)
from predictor.simulator.kernel.setup import start_run
from predictor.simulator.kernel.steps import (
    finish_chunks,
    has_chunks,
    has_work,
    run_decode_steps,
    run_mixed_step,
)
from predictor.simulator.kernel.trace import write_trace
from predictor.simulator.kernel.work import (
    BUDGET,
    CACHED_AT,
    CACHED_BLOCKS,
    CHUNK,
    DECODING,
    FREE,
    LAST_STEP,
    NEWCOMERS_LEFT,
    NUM_DECODES,
    NUM_EVENTS,
    NUM_HELD,
    NUM_PARTIALS,
    NUM_PAUSED,
    NUM_PREEMPTED,
    NUM_RUNNING,
    ORDER_SIZE,
    PLACE,
    POPPED,
    PREFILLING,
    QUEUE_HEAD,
    QUEUE_SIZE,
    STATE,
    STEP,
    Work,
)
from predictor.step_time.table import StepTable

PLAYED = 0
STUCK = 1
"""A newcomer can never be admitted."""
TOO_LONG = 2
"""More events than allowed."""


# Long for its arguments, which `sarathi.play` has as well.
@entry
def play(
    limits: Ints,
    rows: Ints,
    num_running: int,
    num_free_blocks: int,
    newcomers: Ints,
    table: StepTable,
    start_s: float,
    until_all: bool,
    marks: Ints,
    max_events: int,
    work: Work,
    times: Floats,
    marked_s: Floats,
    longest_step_s: Floats,
    trace: Ints,
) -> int:
    """Play an engine forward until the newcomers, or all sequences, have ended.

    ``newcomers`` has rows as ``rows`` has; they arrive now, in their order. ``marks`` are rising
    output lengths of the only newcomer, whose times come out in ``marked_s``; its ``REMAINING``
    must be the first of them. ``times`` gets a row for each sequence, rows first.
    ``longest_step_s`` (one value) is the longest step in which anyone decoded. A ``trace`` that is
    not empty gets (step, slot, tokens) for every chunk; it makes every step count.
    Counts are left in ``work.counters``. Returns PLAYED, STUCK or TOO_LONG.
    """
    start_run(work, limits, rows, num_running, num_free_blocks, newcomers, times)
    counters, clock_s = work.counters, start_s
    longest_step_s[0] = 0.0
    while counters[NEWCOMERS_LEFT] > 0 or (until_all and has_work(work)):
        counters[NUM_EVENTS] += 1
        if counters[NUM_EVENTS] > max_events:
            return TOO_LONG
        threshold = _long_prefill_threshold(work, limits)
        preempted = _plan_running(work, limits, threshold)
        if not preempted:
            _admit(work, limits, threshold, times, clock_s)
        if trace.shape[0] > 0:
            write_trace(work, trace)
        if has_chunks(work):
            took_s = run_mixed_step(work, table)
            if counters[NUM_DECODES] > 0 and took_s > longest_step_s[0]:
                longest_step_s[0] = took_s
            clock_s += took_s
            finish_chunks(work, limits, times, clock_s, marks, marked_s)
        elif counters[NUM_DECODES] > 0:
            single = preempted or trace.shape[0] > 0 or counters[NUM_PAUSED] > 0
            clock_s += run_decode_steps(work, limits, table, single, longest_step_s)
        elif counters[NUM_HELD] > 0 or preempted:
            counters[STEP] += 1  # an empty step takes no time
        else:
            return STUCK if counters[NEWCOMERS_LEFT] > 0 else PLAYED
        end_due(work, limits, times, clock_s, marks, marked_s)
        _resume_paused(work, limits)
    return PLAYED


@inlined
def _long_prefill_threshold(work: Work, limits: Ints) -> int:
    """The cap on one sequence's chunk; it does not bind a sequence that is alone."""
    counters = work.counters
    threshold = limits[LONG_PREFILL_THRESHOLD]
    waiting = counters[QUEUE_SIZE] - counters[QUEUE_HEAD] + counters[NUM_PREEMPTED]
    if threshold == 0 or counters[NUM_RUNNING] + waiting <= 1:
        return limits[MAX_MODEL_LEN]
    return threshold


@inlined
def _plan_running(work: Work, limits: Ints, threshold: int) -> bool:
    """Grant tokens and blocks to the running sequences; True if anyone was preempted."""
    slots, counters, block_size = work.slots, work.counters, limits[BLOCK_SIZE]
    left, demand = limits[MAX_NUM_BATCHED_TOKENS] - counters[NUM_DECODES], 0
    for index in range(counters[NUM_PARTIALS]):
        slot = work.partials[index]
        demand += min(slots[slot, TOKENS] - slots[slot, COMPUTED], threshold)
    if left < 0 or (demand > left and _decodes_behind_partial(work)):
        return schedule_in_order(work, limits, threshold)
    need = work.phases[-counters[STEP] % block_size]
    for index in range(counters[NUM_PARTIALS]):
        slot = work.partials[index]
        count = min(slots[slot, TOKENS] - slots[slot, COMPUTED], threshold, left)
        slots[slot, CHUNK] = count
        left -= count
        need += blocks_wanted(work, limits, slot, count)
    counters[BUDGET] = left
    if need <= counters[FREE]:
        take_blocks(work, limits, need)
        return False
    # Which blocks are taken before others come free matters where they are cached.
    in_order = limits[PREFIX_CACHING] == 1 and counters[NUM_PARTIALS] > 0
    if in_order or limits[BY_PRIORITY] == 1:
        for index in range(counters[NUM_PARTIALS]):
            slots[work.partials[index], CHUNK] = 0
        return schedule_in_order(work, limits, threshold)
    _preempt_from_the_end(work, limits, need)
    return True


@seldom
def _decodes_behind_partial(work: Work) -> bool:
    """Does any sequence decode behind the first unfinished prefill?"""
    first = work.slots[work.partials[0], PLACE]
    for place in range(first + 1, work.counters[ORDER_SIZE]):
        slot = work.order[place]
        if slot >= 0 and DECODING <= work.slots[slot, STATE] <= LAST_STEP:
            return True
    return False


@inlined
def _preempt_from_the_end(work: Work, limits: Ints, need: int) -> None:
    """Preempt the last running sequences until the others' ``need`` is met, and meet it.

    Where blocks are cached, each sequence wants one: those in front take all that are free first.
    """
    slots, counters = work.slots, work.counters
    while need > counters[FREE] and counters[ORDER_SIZE] > 0:
        if limits[PREFIX_CACHING] == 1:
            need -= counters[FREE]
            take_blocks(work, limits, counters[FREE])
        slot = work.order[counters[ORDER_SIZE] - 1]
        state = slots[slot, STATE]
        if PREFILLING <= state <= LAST_STEP:
            need -= blocks_wanted(work, limits, slot, slots[slot, CHUNK])
            slots[slot, CHUNK] = 0
        preempt(work, limits, slot)
    take_blocks(work, limits, need)


@inlined
def _admit(work: Work, limits: Ints, threshold: int, times: Floats, clock_s: float) -> None:
    """Admit from the front of the queue until one does not fit: nobody overtakes it."""
    slots, counters, block_size = work.slots, work.counters, limits[BLOCK_SIZE]
    while counters[BUDGET] > 0 and counters[NUM_RUNNING] < limits[MAX_NUM_SEQS]:
        slot, was_preempted = _queue_front(work, limits)
        if slot < 0:
            return
        tokens = slots[slot, TOKENS]
        if blocks_of(tokens, block_size) > counters[FREE]:
            return
        hit = _surviving_tokens(work, limits, slot)
        count = min(tokens - hit, threshold)
        if count > counters[BUDGET] and limits[CHUNKED_PREFILL] == 0:
            return
        count = min(count, counters[BUDGET])
        if was_preempted:
            counters[NUM_PREEMPTED] -= 1
        else:
            counters[QUEUE_HEAD] += 1
        if hit > 0:
            _take_cached(work, limits, slot, hit // block_size)
        # Hits leave the middle of the free queue, new blocks its front.
        counters[FREE] -= hit // block_size
        take_blocks(work, limits, blocks_of(hit + count, block_size) - hit // block_size)
        slots[slot, STATE] = PREFILLING
        slots[slot, COMPUTED] = hit
        slots[slot, CHUNK] = count
        append_running(work, slot)
        work.partials[counters[NUM_PARTIALS]] = slot
        counters[NUM_PARTIALS] += 1
        counters[BUDGET] -= count
        if times[slot, QUEUE] == NEVER:
            times[slot, QUEUE] = clock_s


@inlined
def _queue_front(work: Work, limits: Ints) -> tuple[int, bool]:
    """(the slot to be admitted next or -1, whether it was preempted)."""
    counters = work.counters
    slot = -1
    if counters[QUEUE_HEAD] < counters[QUEUE_SIZE]:
        slot = work.queue[counters[QUEUE_HEAD]]
    if counters[NUM_PREEMPTED] == 0:
        return slot, False
    preempted = work.preempted[counters[NUM_PREEMPTED] - 1]
    if slot >= 0 and limits[BY_PRIORITY] == 1 and is_before(work, limits, slot, preempted):
        return slot, False
    return preempted, True


@inlined
def _surviving_tokens(work: Work, limits: Ints, slot: int) -> int:
    """Tokens whose blocks a waiting sequence still finds in the prefix cache."""
    slots, block_size = work.slots, limits[BLOCK_SIZE]
    cached = slots[slot, CACHED_BLOCKS]
    evicted = min(max(0, work.counters[POPPED] - slots[slot, CACHED_AT]), cached)
    return min(cached - evicted, (slots[slot, TOKENS] - 1) // block_size) * block_size


@inlined
def _take_cached(work: Work, limits: Ints, slot: int, count: int) -> None:
    """Blocks leave the free queue; those of other sequences behind them move up."""
    slots, counters = work.slots, work.counters
    for index in range(counters[NUM_PREEMPTED]):
        other = work.preempted[index]
        if slots[other, CACHED_AT] > slots[slot, CACHED_AT]:
            slots[other, CACHED_AT] -= count
    if limits[BY_PRIORITY] == 1:  # else those that wait longer are laid before those behind them
        for index in range(counters[QUEUE_HEAD], counters[QUEUE_SIZE]):
            other = work.queue[index]
            if slots[other, CACHED_AT] > slots[slot, CACHED_AT]:
                slots[other, CACHED_AT] -= count


@inlined
def _resume_paused(work: Work, limits: Ints) -> None:
    counters = work.counters
    for index in range(counters[NUM_PAUSED]):
        join(work, limits, work.paused[index])
    counters[NUM_PAUSED] = 0


forget_outdated(play)
