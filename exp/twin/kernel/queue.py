"""The queue of an engine: a chain of slots, the next to be admitted first."""

from __future__ import annotations

from exp.twin.kernel.layout import (
    ARRIVAL,
    FIRST_WAITING,
    LAST_WAITING,
    NEXT,
    NONE,
    NUM_WAITING,
    PREVIOUS,
    PRIORITY,
    Fleet,
)
from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.layout import BY_PRIORITY, Ints


@seldom
def enqueue(fleet: Fleet, unit: int, slot: int, at_front: bool) -> None:
    """At the end or at the front; by priority before those that are less urgent."""
    engines, seqs = fleet.engines, fleet.seqs
    after = engines[unit, FIRST_WAITING] if at_front else NONE
    if fleet.limits[unit, BY_PRIORITY] == 1:
        after = engines[unit, FIRST_WAITING]
        while after != NONE and not is_before(seqs, slot, after):
            after = seqs[after, NEXT]
    before = engines[unit, LAST_WAITING] if after == NONE else seqs[after, PREVIOUS]
    seqs[slot, PREVIOUS] = before
    seqs[slot, NEXT] = after
    _join(fleet, unit, before, slot)
    _join(fleet, unit, slot, after)
    engines[unit, NUM_WAITING] += 1


@seldom
def leave_queue(fleet: Fleet, unit: int, slot: int) -> None:
    """Take a sequence out, wherever it stands."""
    _join(fleet, unit, fleet.seqs[slot, PREVIOUS], fleet.seqs[slot, NEXT])
    fleet.engines[unit, NUM_WAITING] -= 1


@inlined
def is_before(seqs: Ints, slot: int, other: int) -> bool:
    """Is ``slot`` more urgent than ``other``, or as urgent and earlier?"""
    if seqs[slot, PRIORITY] != seqs[other, PRIORITY]:
        return seqs[slot, PRIORITY] < seqs[other, PRIORITY]
    return seqs[slot, ARRIVAL] < seqs[other, ARRIVAL]


@inlined
def _join(fleet: Fleet, unit: int, before: int, after: int) -> None:
    """Make two slots neighbours; NONE is the end of the queue."""
    if before == NONE:
        fleet.engines[unit, FIRST_WAITING] = after
    else:
        fleet.seqs[before, NEXT] = after
    if after == NONE:
        fleet.engines[unit, LAST_WAITING] = before
    else:
        fleet.seqs[after, PREVIOUS] = before
