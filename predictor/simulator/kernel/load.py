"""From a population to the kernel's arrays: the state when the batches in flight have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.kernel.layout import (
    ARRIVAL,
    COMPUTED,
    NUM_COLUMNS,
    REMAINING,
    SHARED_BLOCKS,
    TOKENS,
    EngineArrays,
    Ints,
    limits_array,
)
from wire.snapshot import EngineLimits

Chunks = list[tuple[int, int]]
"""(tokens, context before) of each sequence in a batch."""


_NEW_RANK = 1 << 40
"""By arrival; beyond the rank of any sequence that is there. Those of sequences that have gone with
a batch in flight are missing, so that their number would not do."""


class Loaded(NamedTuple):
    """An engine's state for the kernel, and what must pass before it."""

    engine: EngineArrays
    in_flight: tuple[tuple[float, Chunks], ...]
    """(UNIX seconds when it started, its chunks) of each batch, oldest first."""
    rows_of: Ints
    """For each row the place of its sequence in ``running + waiting``."""


def load_population(population: Population) -> Loaded:
    """Let the batches in flight end, then lay out the sequences."""
    limits = population.limits
    sequences = population.running + population.waiting
    table: Ints = np.zeros((len(sequences), NUM_COLUMNS), dtype=np.int64)
    if sequences:
        table[:] = [_row(sequence) for sequence in sequences]
        table[:, ARRIVAL] = _arrival_ranks(sequences)
    num_running = len(population.running)
    free, num_first = population.num_free_blocks, 0
    _share_blocks(table, population, limits)
    in_flight, gone = _end_in_flight(table, population)
    for index in gone:
        if index < num_running:
            num_full, rest = divmod(int(table[index, COMPUTED]), limits.block_size)
            free += num_full + (rest > 0) - int(table[index, SHARED_BLOCKS])
            num_first += rest > 0  # a block that is not full is taken before all others
    figures = limits_array(limits, num_first, num_first + population.num_free_blocks)
    kept = np.array([i for i in range(len(sequences)) if i not in gone], dtype=np.int64)
    num_running -= sum(index < num_running for index in gone)
    rows = np.ascontiguousarray(table[kept])
    return Loaded(EngineArrays(figures, rows, num_running, free), in_flight, kept)


def newcomer_rows(newcomers: Sequence[SimulatedSequence]) -> Ints:
    """Rows of requests that arrive now, after all others."""
    if not newcomers:
        return np.zeros((0, NUM_COLUMNS), dtype=np.int64)
    rows = [_row(newcomer, _NEW_RANK + index) for index, newcomer in enumerate(newcomers)]
    return np.array(rows, dtype=np.int64)


def _row(sequence: SimulatedSequence, arrival: int = 0) -> tuple[int, ...]:
    """In the order of the columns."""
    return (
        sequence.num_tokens,
        sequence.num_computed_tokens,
        sequence.remaining_tokens,
        int(sequence.remaining_tokens >= sequence.max_remaining_tokens),
        sequence.priority,
        arrival,
        sequence.num_prompt_tokens,
        0,
    )


def _arrival_ranks(sequences: Sequence[SimulatedSequence]) -> Ints:
    order = sorted(range(len(sequences)), key=lambda index: sequences[index].arrival_time)
    ranks: Ints = np.empty(len(sequences), dtype=np.int64)
    ranks[order] = np.arange(len(sequences))
    return ranks


def _share_blocks(table: Ints, population: Population, limits: EngineLimits) -> None:
    """What running sequences hold beyond the used blocks is prefixes in common.

    Later sequences have those from the first one that has enough; ``live_state`` does the same.
    """
    used = limits.num_gpu_blocks - population.num_free_blocks
    held = [sequence.num_blocks for sequence in population.running]
    shared, longest = sum(held) - used, 0
    if shared <= 0:
        return
    # What is shared are full blocks of prompts, as far as those explain it.
    prefixes = [
        min(sequence.num_blocks, sequence.num_prompt_tokens // limits.block_size)
        for sequence in population.running
    ]
    if sum(prefixes) - max(prefixes) < shared:
        prefixes = held
    for index, prefix in enumerate(prefixes):
        borrowed = min(shared, prefix, longest)
        table[index, SHARED_BLOCKS] = borrowed
        shared -= borrowed
        longest = max(longest, prefix)


def _end_in_flight(
    table: Ints, population: Population
) -> tuple[tuple[tuple[float, Chunks], ...], set[int]]:
    """Count the tokens of the batches in flight; the batches' shapes and the rows that end.

    With async scheduling the last batch's results come too late for the next schedule.
    """
    if not population.in_flight:
        return (), set()
    sequences = population.running + population.waiting
    row_of = {sequence.request_id: index for index, sequence in enumerate(sequences)}
    num_running, gone = len(population.running), set[int]()
    batches = []
    for batch in population.in_flight:
        is_last = batch is population.in_flight[-1]
        chunks: Chunks = []
        batches.append((batch.started_at, chunks))
        for name, count in batch.num_scheduled_tokens.items():
            index = row_of.get(name)
            if index is None or count == 0:  # has ended meanwhile
                continue
            row = table[index]
            if index < num_running:
                context, reached_end = _compute(row, count)
            else:
                reached_end = name not in batch.prefill_chunks
                context = _stale_context(row, count, reached_end)
            chunks.append((count, context))
            if not reached_end or row[REMAINING] == 0:
                continue
            row[TOKENS] += 1
            row[REMAINING] -= 1
            is_known = not (is_last and population.limits.async_scheduling)
            if row[REMAINING] == 0 and (is_known or index >= num_running):
                gone.add(index)
    return tuple(batches), gone


def _compute(row: Ints, count: int) -> tuple[int, bool]:
    """(tokens computed before, whether the last known one is now among them)."""
    context = int(row[COMPUTED])
    row[COMPUTED] += count
    return context, bool(row[COMPUTED] >= row[TOKENS])


def _stale_context(row: Ints, count: int, reached_end: bool) -> int:
    """Tokens that a sequence had computed before a chunk and before its preemption.

    Snapshots do not tell. Where the chunk ended with the last known token, they follow from that.
    """
    return max(0, int(row[TOKENS]) - count) if reached_end else 0
