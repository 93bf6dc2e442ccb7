"""Makes the arrays of a fleet, and larger ones when they are full."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from exp.twin.kernel.layout import (
    AFTER,
    BEFORE,
    CHAIN,
    ENDS_S,
    FIRST_BUCKET,
    FIRST_HASH,
    FIRST_WAITING,
    FREE_HEAD,
    FREE_SLOT,
    HASH,
    LAST_WAITING,
    MAX_EXPORTED_WAITING,
    NEXT,
    NO_HASH,
    NONE,
    NUM_BLOCK_COLUMNS,
    NUM_BUCKETS,
    NUM_CLOCKS,
    NUM_COUNTERS,
    NUM_ENGINE_COLUMNS,
    NUM_EVENT_COLUMNS,
    NUM_EXPORT_HEADS,
    NUM_FREE,
    NUM_HASHES,
    NUM_SEQ_COLUMNS,
    REFERENCES,
    TABLE,
    Fleet,
    StepTables,
)
from predictor.simulator.kernel.layout import NUM_BLOCKS, Floats, Ints, limits_array
from predictor.step_time.table import StepTable
from wire.snapshot import EngineLimits

_FIRST_SLOTS = 256
_FIRST_HASHES = 1 << 16


def make_fleet(
    limits: Sequence[EngineLimits], tables: Sequence[StepTable], factors: Floats
) -> Fleet:
    """Idle engines with empty caches."""
    most_seqs = [one.max_num_seqs for one in limits]
    num_blocks = [one.num_gpu_blocks for one in limits]
    longest = max(
        min(-(-one.max_model_len // one.block_size), one.num_gpu_blocks) for one in limits
    )
    num_buckets = [1 << count.bit_length() for count in num_blocks]
    fleet = Fleet(
        limits=np.array([limits_array(one, 0, 0) for one in limits]),
        engines=np.zeros((len(limits), NUM_ENGINE_COLUMNS), dtype=np.int64),
        clocks=np.zeros((len(limits), NUM_CLOCKS)),
        running=np.zeros((len(limits), max(most_seqs)), dtype=np.int64),
        seats=np.zeros((len(limits), max(most_seqs)), dtype=np.int64),
        tables=np.empty((sum(most_seqs), longest), dtype=np.int32),
        seqs=_more_slots(0, _FIRST_SLOTS),
        blocks=np.zeros((sum(num_blocks) + len(limits), NUM_BLOCK_COLUMNS), dtype=np.int64),
        buckets=np.full(sum(num_buckets), NONE, dtype=np.int64),
        hashes=np.zeros(_FIRST_HASHES, dtype=np.int64),
        factors=factors,
        steps=_pad(_unique(tables)),
        exports=np.zeros(
            (len(limits), max(most_seqs) + MAX_EXPORTED_WAITING, NUM_SEQ_COLUMNS), dtype=np.int64
        ),
        export_heads=np.full((len(limits), NUM_EXPORT_HEADS), NONE, dtype=np.int64),
        counters=np.zeros(NUM_COUNTERS, dtype=np.int64),
        events=np.zeros((2 * max(most_seqs), NUM_EVENT_COLUMNS), dtype=np.int64),
    )
    numbers = {id(table): number for number, table in enumerate(_unique(tables))}
    fleet.engines[:, TABLE] = [numbers[id(table)] for table in tables]
    fleet.engines[:, FREE_HEAD] = np.cumsum([count + 1 for count in num_blocks]) - 1
    fleet.engines[:, NUM_BUCKETS] = num_buckets
    fleet.engines[:, FIRST_BUCKET] = np.cumsum([0, *num_buckets[:-1]])
    first_seats = np.cumsum([0, *most_seqs[:-1]])
    for unit, (first, count) in enumerate(zip(first_seats, most_seqs, strict=True)):
        fleet.seats[unit, :count] = np.arange(first, first + count)
        empty(fleet, unit)
    return fleet


def empty(fleet: Fleet, unit: int) -> None:
    """Let an engine hold nothing, neither sequences nor cached blocks."""
    engine = fleet.engines[unit]
    engine[NUM_FREE] = fleet.limits[unit, NUM_BLOCKS]
    engine[[FIRST_WAITING, LAST_WAITING]] = NONE
    fleet.clocks[unit, ENDS_S] = np.inf
    head = int(engine[FREE_HEAD])
    ring = np.arange(head - int(engine[NUM_FREE]), head + 1)
    fleet.blocks[ring, REFERENCES] = 0
    fleet.blocks[ring, HASH] = NO_HASH
    fleet.blocks[ring, CHAIN] = NONE
    fleet.blocks[ring, AFTER] = np.roll(ring, -1)
    fleet.blocks[ring, BEFORE] = np.roll(ring, 1)
    first = int(engine[FIRST_BUCKET])
    fleet.buckets[first : first + int(engine[NUM_BUCKETS])] = NONE


def with_more_slots(fleet: Fleet) -> Fleet:
    """Twice as many, of which the new ones are free; call when none is."""
    size = len(fleet.seqs)
    fleet.counters[FREE_SLOT] = size
    return fleet._replace(seqs=np.concatenate([fleet.seqs, _more_slots(size, size)]))


def with_room_for_hashes(fleet: Fleet, slots: Iterable[int], num_more: int) -> tuple[Fleet, int]:
    """A fleet with the hashes of these slots alone and room for more, and where that begins."""
    kept: list[Ints] = []
    used = 0
    for slot in slots:
        first, count = fleet.seqs[slot, [FIRST_HASH, NUM_HASHES]].tolist()
        kept.append(fleet.hashes[first : first + count])
        fleet.seqs[slot, FIRST_HASH] = used
        used += count
    room = np.zeros(max(num_more, used, _FIRST_HASHES), dtype=np.int64)
    return fleet._replace(hashes=np.concatenate([*kept, room])), used


def _more_slots(first: int, count: int) -> Ints:
    """A chain of free slots."""
    slots = np.zeros((count, NUM_SEQ_COLUMNS), dtype=np.int64)
    slots[:, NEXT] = np.arange(first + 1, first + count + 1)
    slots[-1, NEXT] = NONE
    return slots


def _unique(tables: Sequence[StepTable]) -> list[StepTable]:
    """The different ones, in the order in which they come."""
    return list({id(table): table for table in tables}.values())


def _pad(tables: Sequence[StepTable]) -> StepTables:
    columns = [
        (len(t.token_s), len(t.seq_s), *t.decode_s.shape, *t.prefill_s.shape, t.granularity)
        for t in tables
    ]
    sizes = np.array(columns, dtype=np.int64)
    return StepTables(
        sizes=sizes,
        token_s=_stack([table.token_s for table in tables]),
        seq_factor=_stack([table.seq_factor for table in tables]),
        seq_s=_stack([table.seq_s for table in tables]),
        weights=_stack([table.weights for table in tables]),
        decode_s=_stack([table.decode_s for table in tables]),
        prefill_s=_stack([table.prefill_s for table in tables]),
    )


def _stack(arrays: Sequence[Floats]) -> Floats:
    """One above the other, each padded with zeros."""
    shape = np.max([array.shape for array in arrays], axis=0)
    stacked = np.zeros((len(arrays), *shape))
    for place, array in enumerate(arrays):
        inner = stacked[place]
        inner[tuple(map(slice, array.shape))] = array
    return stacked
