"""The rules of stock Vidur 0.0.26's ``SarathiReplicaScheduler``, jumping from event to event.

Decodes come first and ignore the token budget. Each of them wants one free block, whether it opens
one or not; where there is none the last running sequence is preempted. Then prefills under way
share what the decodes leave of the budget, and the queue's front is admitted as long as there are
tokens and blocks for its whole prompt, in a step with preemptions too. Where the rules look odd
(what becomes of a preempted prefill, say) so do Vidur's: ``predictor/backends/vidur_run.py`` runs
the original, and tests hold the two against each other.

A state for these rules comes from ``vidur_state``. A decode's context in Vidur has one token more
than in vLLM: it counts the last token, which is computed in this step, and the one to come.
"""

from __future__ import annotations

from predictor.simulator.kernel.compiled import entry, forget_outdated, inlined
from predictor.simulator.kernel.in_order import is_before
from predictor.simulator.kernel.layout import (
    BLOCK_SIZE,
    BY_PRIORITY,
    COMPUTED,
    MAX_NUM_BATCHED_TOKENS,
    MAX_NUM_SEQS,
    NEVER,
    QUEUE,
    REMAINING,
    TOKENS,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lockstep import (
    append_running,
    blocks_of,
    end_due,
    leave,
    release,
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
from predictor.simulator.kernel.vllm import PLAYED, STUCK, TOO_LONG
from predictor.simulator.kernel.work import (
    BASE,
    BUDGET,
    CHUNK,
    DECODING,
    FIRST_NEWCOMER,
    FREE,
    NEWCOMERS_LEFT,
    NUM_DECODES,
    NUM_EVENTS,
    NUM_PARTIALS,
    NUM_PREEMPTED,
    NUM_RUNNING,
    ORDER_SIZE,
    OWN_PREEMPTIONS,
    PLACE,
    PREEMPTIONS,
    PREFILLING,
    QUEUE_HEAD,
    QUEUE_SIZE,
    STATE,
    STEP,
    WAITING,
    Work,
)
from predictor.step_time.table import StepTable

_EXTRA_KV = 1
_SPARE_BLOCKS = 1
_AT_FRONT = -1
"""``PLACE`` of prefills that got nothing in their last step. They are looked at first, so that
nobody preempts them; all other running sequences have their place in ``order``."""


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
    """Play an engine forward; arguments and results are those of ``vllm.play``."""
    start_run(work, limits, rows, num_running, num_free_blocks, newcomers, times)
    counters, clock_s = work.counters, start_s
    longest_step_s[0] = 0.0
    while counters[NEWCOMERS_LEFT] > 0 or (until_all and has_work(work)):
        counters[NUM_EVENTS] += 1
        if counters[NUM_EVENTS] > max_events:
            return TOO_LONG
        _make_room(work, limits)
        _grant(work, limits, num_running)
        _admit(work, limits, times, clock_s)
        if trace.shape[0] > 0:
            write_trace(work, trace)
        if has_chunks(work):
            took_s = run_mixed_step(work, table, _EXTRA_KV)
            if counters[NUM_DECODES] > 0:
                longest_step_s[0] = max(longest_step_s[0], took_s)
            clock_s += took_s
            finish_chunks(work, limits, times, clock_s, marks, marked_s)
        elif counters[NUM_DECODES] > 0:
            single = trace.shape[0] > 0
            clock_s += run_decode_steps(
                work, limits, table, single, longest_step_s, _EXTRA_KV, _SPARE_BLOCKS
            )
        else:
            return STUCK if counters[NEWCOMERS_LEFT] > 0 else PLAYED
        end_due(work, limits, times, clock_s, marks, marked_s)
    return PLAYED


@inlined
def _make_room(work: Work, limits: Ints) -> None:
    """Let every decode find a free block, and take those that are opened.

    Sequences are preempted one by one when a decode finds none. The last decode that is kept finds
    the fewest, so it alone decides how many are preempted.
    """
    counters, block_size = work.counters, limits[BLOCK_SIZE]
    opened = work.phases[-counters[STEP] % block_size]
    while counters[NUM_DECODES] > 0 and counters[FREE] <= opened:
        last = _last_decode(work)
        opens_one = (work.slots[last, BASE] + counters[STEP]) % block_size == 0
        if counters[FREE] == opened and opens_one:
            break
        victim = work.order[counters[ORDER_SIZE] - 1]
        if victim == last and opens_one:
            opened -= 1
        _restart(work, limits, victim)
    counters[FREE] -= opened


@inlined
def _last_decode(work: Work) -> int:
    """The last running sequence that decodes; there must be one."""
    place = work.counters[ORDER_SIZE] - 1
    while work.order[place] < 0 or work.slots[work.order[place], STATE] != DECODING:
        place -= 1
    return work.order[place]


@inlined
def _restart(work: Work, limits: Ints, slot: int) -> None:
    """Send a running sequence to the queue's front, to be prefilled with all it has processed.

    So a preempted prefill has a shorter prompt from then on; the rest of it becomes output.
    """
    slots, counters = work.slots, work.counters
    if slots[slot, STATE] == DECODING:
        leave(work, limits, slot)
        processed = slots[slot, COMPUTED] + 1
    else:
        processed = slots[slot, COMPUTED]
        slots[slot, REMAINING] += slots[slot, TOKENS] - processed
        slots[slot, COMPUTED] = slots[slot, TOKENS]  # it holds blocks for all of its prompt
        counters[NUM_PARTIALS] -= 1  # which are in running order
    release(work, limits, slot)
    slots[slot, TOKENS] = processed
    slots[slot, COMPUTED] = 0
    slots[slot, STATE] = WAITING
    work.preempted[counters[NUM_PREEMPTED]] = slot
    counters[NUM_PREEMPTED] += 1
    counters[PREEMPTIONS] += 1
    if slot >= counters[FIRST_NEWCOMER]:
        counters[OWN_PREEMPTIONS] += 1


@inlined
def _grant(work: Work, limits: Ints, num_running: int) -> None:
    """Share the budget among the prefills under way, in running order.

    Those that get something then stand behind all other running sequences, the others before them.
    """
    slots, counters, partials, granted = work.slots, work.counters, work.partials, work.paused
    budget = max(0, limits[MAX_NUM_BATCHED_TOKENS] - counters[NUM_DECODES])
    num_granted, num_partials = 0, counters[NUM_PARTIALS]
    for index in range(num_partials):
        slot = partials[index]
        count = min(slots[slot, TOKENS] - slots[slot, COMPUTED], budget)
        if count == 0:
            _to_front(work, slot)
            _insert_by_arrival(work, limits, index - num_granted, slot, num_running)
            continue
        slots[slot, CHUNK] = count
        budget -= count
        _to_end(work, slot)
        granted[num_granted] = slot
        num_granted += 1
    for index in range(num_granted):
        partials[num_partials - num_granted + index] = granted[index]
    counters[BUDGET] = budget


@inlined
def _insert_by_arrival(work: Work, limits: Ints, size: int, slot: int, num_running: int) -> None:
    """Put a slot among the first ``size`` partials, which are in the order of arrival."""
    partials, place = work.partials, size
    while place > 0:
        before = partials[place - 1]
        is_later = before > slot
        if limits[BY_PRIORITY] == 1 and min(before, slot) >= num_running:
            is_later = is_before(work, limits, slot, before)
        if not is_later:
            break
        partials[place] = before
        place -= 1
    partials[place] = slot


@inlined
def _to_front(work: Work, slot: int) -> None:
    counters, place = work.counters, work.slots[slot, PLACE]
    if place == _AT_FRONT:
        return
    work.slots[slot, PLACE] = _AT_FRONT
    work.order[place] = -1
    while counters[ORDER_SIZE] > 0 and work.order[counters[ORDER_SIZE] - 1] < 0:
        counters[ORDER_SIZE] -= 1


@inlined
def _to_end(work: Work, slot: int) -> None:
    counters, place = work.counters, work.slots[slot, PLACE]
    if place != _AT_FRONT:
        if place == counters[ORDER_SIZE] - 1:
            return
        work.order[place] = -1
    counters[NUM_RUNNING] -= 1  # it is counted already
    append_running(work, slot)


@inlined
def _admit(work: Work, limits: Ints, times: Floats, clock_s: float) -> None:
    """Admit from the front of the queue, preempted sequences first, until one does not fit."""
    slots, counters = work.slots, work.counters
    while counters[NUM_RUNNING] < limits[MAX_NUM_SEQS]:
        was_preempted = counters[NUM_PREEMPTED] > 0
        if was_preempted:
            slot = work.preempted[counters[NUM_PREEMPTED] - 1]
        elif counters[QUEUE_HEAD] < counters[QUEUE_SIZE]:
            slot = work.queue[counters[QUEUE_HEAD]]
        else:
            return
        num_blocks = blocks_of(slots[slot, TOKENS], limits[BLOCK_SIZE])
        count = min(slots[slot, TOKENS] - slots[slot, COMPUTED], counters[BUDGET])
        if num_blocks > counters[FREE] or count == 0:
            return
        counters[NUM_PREEMPTED if was_preempted else QUEUE_HEAD] += -1 if was_preempted else 1
        counters[FREE] -= num_blocks
        counters[BUDGET] -= count
        slots[slot, STATE] = PREFILLING
        slots[slot, CHUNK] = count
        append_running(work, slot)
        work.partials[counters[NUM_PARTIALS]] = slot
        counters[NUM_PARTIALS] += 1
        if times[slot, QUEUE] == NEVER:
            times[slot, QUEUE] = clock_s


forget_outdated(play)
