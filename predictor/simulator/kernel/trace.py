"""Writes down what every step computes, for comparisons with other schedulers."""

from __future__ import annotations

from predictor.simulator.kernel.compiled import seldom
from predictor.simulator.kernel.layout import Ints
from predictor.simulator.kernel.work import (
    CHUNK,
    LAST_STEP,
    NUM_TRACED,
    ORDER_SIZE,
    PREFILLING,
    STATE,
    STEP,
    Work,
)


@seldom
def write_trace(work: Work, trace: Ints) -> None:
    """Add (step, slot, tokens) for each chunk of the planned step in its order, while rows last."""
    slots, counters = work.slots, work.counters
    for place in range(counters[ORDER_SIZE]):
        slot = work.order[place]
        if slot < 0:
            continue
        count = slots[slot, CHUNK] if slots[slot, STATE] == PREFILLING else 1
        if not PREFILLING <= slots[slot, STATE] <= LAST_STEP or count == 0:
            continue
        if counters[NUM_TRACED] < trace.shape[0]:
            trace[counters[NUM_TRACED], 0] = counters[STEP]
            trace[counters[NUM_TRACED], 1] = slot
            trace[counters[NUM_TRACED], 2] = count
            counters[NUM_TRACED] += 1
