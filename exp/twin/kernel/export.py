"""What an engine tells of its state: all that vLLM's plug-in exports when a batch has started."""

from __future__ import annotations

import numpy as np

from exp.twin.kernel.blocks import count_hits
from exp.twin.kernel.layout import (
    CHANGES,
    ENDS_S,
    EXPORT_FREE,
    EXPORT_HAS_BATCH,
    EXPORT_LEFT_OUT,
    EXPORT_RUNNING,
    EXPORT_STARTED_S,
    EXPORT_VERSION,
    EXPORT_WAITING,
    EXPORTED_S,
    FIRST_WAITING,
    HIT,
    KEPT,
    MAX_EXPORTED_WAITING,
    NEXT,
    NONE,
    NUM_FREE,
    NUM_RUNNING,
    NUM_SEQ_COLUMNS,
    SEEN_STEP,
    STARTED_S,
    STEP,
    Fleet,
)
from predictor.simulator.kernel.compiled import inlined, seldom

_MAX_LOOKUPS = 8
"""Prefix-cache hits of waiting sequences that are looked up again, from the queue's head on; the
plug-in's time allows about as much."""


@seldom
def export_state(fleet: Fleet, unit: int, now_s: float) -> None:
    """Copy the sequences that the last step's scheduling has seen, the batch in flight uncounted.

    Running sequences come in the scheduler's order, then the waiting ones in the queue's.
    """
    engines, head = fleet.engines, fleet.export_heads[unit]
    num_rows = 0
    for place in range(engines[unit, NUM_RUNNING]):
        num_rows = _copy(fleet, unit, fleet.running[unit, place], num_rows)
    head[EXPORT_RUNNING] = num_rows
    num_waiting, num_left_out = 0, 0
    slot = engines[unit, FIRST_WAITING]
    while slot != NONE:
        if fleet.seqs[slot, SEEN_STEP] <= engines[unit, STEP]:
            if num_waiting < MAX_EXPORTED_WAITING:
                if num_waiting < _MAX_LOOKUPS or fleet.seqs[slot, HIT] == NONE:
                    hit = count_hits(fleet, unit, slot)
                    fleet.seqs[slot, HIT] = max(hit, fleet.seqs[slot, KEPT])
                num_rows = _copy(fleet, unit, slot, num_rows)
                num_waiting += 1
            else:
                num_left_out += 1
        slot = fleet.seqs[slot, NEXT]
    head[EXPORT_WAITING] = num_waiting
    head[EXPORT_LEFT_OUT] = num_left_out
    head[EXPORT_FREE] = engines[unit, NUM_FREE]
    head[EXPORT_HAS_BATCH] = fleet.clocks[unit, ENDS_S] != np.inf
    head[EXPORT_VERSION] = engines[unit, CHANGES]
    fleet.clocks[unit, EXPORT_STARTED_S] = fleet.clocks[unit, STARTED_S]
    fleet.clocks[unit, EXPORTED_S] = now_s


@inlined
def _copy(fleet: Fleet, unit: int, slot: int, num_rows: int) -> int:
    """The number of rows with this one."""
    row = fleet.exports[unit, num_rows]
    for column in range(NUM_SEQ_COLUMNS):
        row[column] = fleet.seqs[slot, column]
    return num_rows + 1
