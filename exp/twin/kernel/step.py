"""Engines step after step, until something happens that a client notices."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from exp.twin.kernel.export import export_state
from exp.twin.kernel.layout import (
    ABORTED,
    CACHED_TOKENS,
    CHANGES,
    CHUNK,
    COMPUTED,
    DECODE_COLUMNS,
    DECODE_ROWS,
    END,
    ENDS_S,
    EVENT_BY_LENGTH,
    EVENT_CACHED_TOKENS,
    EVENT_INDEX,
    EVENT_KIND,
    EVENT_OUTPUT_TOKENS,
    EVENT_PREEMPTIONS,
    EVENT_UNIT,
    EXPORT_EVERY_S,
    EXPORTED_S,
    FIRST_TOKEN,
    FREE_SLOT,
    GRANULARITY,
    INDEX,
    MAX_TOKENS,
    NEXT,
    NEXT_FACTOR,
    NUM_ABORTED,
    NUM_RUNNING,
    NUM_WAITING,
    OUTPUT_LENGTH,
    PREEMPTIONS,
    PREFILL_COLUMNS,
    PREFILL_ROWS,
    PROMPT,
    SEQ_SIZE,
    STARTED_S,
    STATE,
    STEP,
    TABLE,
    TOKEN_SIZE,
    TOKENS,
    Fleet,
    StepTables,
)
from exp.twin.kernel.queue import enqueue, leave_queue
from exp.twin.kernel.schedule import schedule, stop_running
from predictor.simulator.kernel.compiled import entry, forget_outdated, inlined, seldom
from predictor.simulator.kernel.layout import MAX_MODEL_LEN, Floats
from predictor.simulator.kernel.step_cost import chunk_s, mixed_step_s
from predictor.step_time.table import StepTable

_NO_TOKENS = -1.0


@entry
def play(fleet: Fleet, now_s: float, until_s: float) -> tuple[int, float]:
    """Play all engines up to the first step end with events or to ``until_s``.

    Returns (how many events there are, that moment); an infinite ``until_s`` is no moment. The unit
    of the events is left in ``counters``.
    """
    engines, clocks = fleet.engines, fleet.clocks
    for unit in range(engines.shape[0]):
        if clocks[unit, ENDS_S] == np.inf:
            _start_step(fleet, unit, now_s)
    while True:
        unit = _first_to_end(clocks)
        ends_s = clocks[unit, ENDS_S]
        if ends_s == np.inf or ends_s > until_s:
            return 0, now_s if until_s == np.inf else until_s
        now_s = ends_s
        num_events = _finish_step(fleet, unit)
        _start_step(fleet, unit, now_s)
        if num_events > 0:
            fleet.counters[EVENT_UNIT] = unit
            return num_events, now_s


@seldom
def _first_to_end(clocks: Floats) -> int:
    """The engine whose step ends first."""
    first = 0
    for unit in range(1, clocks.shape[0]):
        if clocks[unit, ENDS_S] < clocks[first, ENDS_S]:
            first = unit
    return first


@entry
def enter(fleet: Fleet, unit: int, slot: int, at_front: bool) -> None:
    """A sequence whose row has been written joins an engine's queue."""
    fleet.engines[unit, CHANGES] += 1
    enqueue(fleet, unit, slot, at_front)


@entry
def remove(fleet: Fleet, unit: int, slot: int) -> None:
    """A sequence leaves an engine at once, wherever it is; its slot is free."""
    fleet.engines[unit, CHANGES] += 1
    place = 0
    while place < fleet.engines[unit, NUM_RUNNING] and fleet.running[unit, place] != slot:
        place += 1
    if place < fleet.engines[unit, NUM_RUNNING]:
        stop_running(fleet, unit, place)
    else:
        leave_queue(fleet, unit, slot)
    free_slot(fleet, slot)


@inlined
def free_slot(fleet: Fleet, slot: int) -> None:
    """Give a slot back."""
    fleet.seqs[slot, NEXT] = fleet.counters[FREE_SLOT]
    fleet.counters[FREE_SLOT] = slot


@inlined
def _start_step(fleet: Fleet, unit: int, now_s: float) -> None:
    """Schedule the next batch, if there is any; steps that only preempt take no time."""
    engines, clocks = fleet.engines, fleet.clocks
    if clocks[unit, ENDS_S] != np.inf:
        clocks[unit, STARTED_S] = now_s
        clocks[unit, ENDS_S] = np.inf
    if engines[unit, NUM_RUNNING] + engines[unit, NUM_WAITING] == 0:
        return
    duration_s = _NO_TOKENS
    while duration_s == _NO_TOKENS:
        engines[unit, STEP] += 1
        if not schedule(fleet, unit):
            return
        duration_s = _duration_s(fleet, unit)
    clocks[unit, STARTED_S] = now_s
    clocks[unit, ENDS_S] = now_s + duration_s
    every_s = clocks[unit, EXPORT_EVERY_S]
    if every_s > 0.0 and now_s - clocks[unit, EXPORTED_S] >= every_s:
        export_state(fleet, unit, now_s)


@inlined
def _duration_s(fleet: Fleet, unit: int) -> float:
    """What the batch takes, with its noise."""
    engines, seqs = fleet.engines, fleet.seqs
    table = step_table_of(fleet.steps, engines[unit, TABLE])
    num_decodes, decode_kv, num_prefills, tokens, kv, attention, grid_s = 0, 0, 0, 0, 0, 0.0, 0.0
    for place in range(engines[unit, NUM_RUNNING]):
        slot = fleet.running[unit, place]
        count, context = seqs[slot, CHUNK], seqs[slot, COMPUTED]
        if count == 1:
            num_decodes += 1
            decode_kv += context
        elif count > 1:
            num_prefills += 1
            tokens += count
            kv += context
            attention += count * (context + 0.5 * count)
            grid_s += chunk_s(table, count, context)
    if num_decodes + num_prefills == 0:
        return _NO_TOKENS
    mean_s = mixed_step_s(
        table, num_decodes, decode_kv, num_prefills, tokens, kv, attention, grid_s
    )
    turn = engines[unit, NEXT_FACTOR]
    engines[unit, NEXT_FACTOR] = (turn + 1) % fleet.factors.shape[1]
    return mean_s * fleet.factors[unit, turn]


@inlined
def step_table_of(steps: StepTables, number: int) -> StepTable:
    """One of the padded tables in its own size."""
    sizes = steps.sizes[number]
    return StepTable(
        steps.token_s[number, : sizes[TOKEN_SIZE]],
        steps.seq_factor[number, : sizes[SEQ_SIZE]],
        steps.seq_s[number, : sizes[SEQ_SIZE]],
        steps.weights[number],
        steps.decode_s[number, : sizes[DECODE_ROWS], : sizes[DECODE_COLUMNS]],
        steps.prefill_s[number, : sizes[PREFILL_ROWS], : sizes[PREFILL_COLUMNS]],
        sizes[GRANULARITY],
    )


@inlined
def _finish_step(fleet: Fleet, unit: int) -> int:
    """Count what was computed, and hand out tokens; how many events that makes."""
    engines, seqs, num_events, place = fleet.engines, fleet.seqs, 0, 0
    engines[unit, CHANGES] += 1
    while place < engines[unit, NUM_RUNNING]:
        slot = fleet.running[unit, place]
        place += 1
        count = seqs[slot, CHUNK]
        seqs[slot, CHUNK] = 0
        seqs[slot, COMPUTED] += count
        if count == 0 or seqs[slot, COMPUTED] < seqs[slot, TOKENS] or seqs[slot, STATE] == ABORTED:
            continue
        seqs[slot, TOKENS] += 1
        output = seqs[slot, TOKENS] - seqs[slot, PROMPT]
        if output == 1:
            num_events = _note(fleet, num_events, FIRST_TOKEN, slot, 0)
        is_over = output >= seqs[slot, OUTPUT_LENGTH]
        is_cut = seqs[slot, TOKENS] >= fleet.limits[unit, MAX_MODEL_LEN]
        if is_over or is_cut or output >= seqs[slot, MAX_TOKENS]:
            num_events = _note(fleet, num_events, END, slot, 0 if is_over else 1)
            place -= 1
            stop_running(fleet, unit, place)
            free_slot(fleet, slot)
    if engines[unit, NUM_ABORTED] > 0:
        _drop_aborted(fleet, unit)
    return num_events


@seldom
def _note(fleet: Fleet, number: int, kind: int, slot: int, by_length: int) -> int:
    """Write an event; the number of the next one."""
    event, seqs = fleet.events[number], fleet.seqs
    event[EVENT_KIND] = kind
    event[EVENT_INDEX] = seqs[slot, INDEX]
    event[EVENT_OUTPUT_TOKENS] = seqs[slot, TOKENS] - seqs[slot, PROMPT]
    event[EVENT_CACHED_TOKENS] = seqs[slot, CACHED_TOKENS]
    event[EVENT_PREEMPTIONS] = seqs[slot, PREEMPTIONS]
    event[EVENT_BY_LENGTH] = by_length
    return number + 1


@seldom
def _drop_aborted(fleet: Fleet, unit: int) -> None:
    place = 0
    while place < fleet.engines[unit, NUM_RUNNING]:
        slot = fleet.running[unit, place]
        if fleet.seqs[slot, STATE] == ABORTED:
            stop_running(fleet, unit, place)
            free_slot(fleet, slot)
        else:
            place += 1
    fleet.engines[unit, NUM_ABORTED] = 0


forget_outdated(play, Path(__file__).parent)
