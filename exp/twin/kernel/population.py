"""Lays what a gateway has sent over what an engine tells, as arrays for the what-if kernel.

The rules are those of ``build_population`` in ``predictor/overlay.py`` and of
``predictor/simulator/kernel/load.py``, for at most one batch in flight.
"""

from __future__ import annotations

from pathlib import Path

from exp.twin.kernel.beliefs import MATCHED, Beliefs
from exp.twin.kernel.blocks import blocks_of
from exp.twin.kernel.export import export_state
from exp.twin.kernel.layout import (
    CHANGES,
    CHUNK,
    COMPUTED,
    EXPORT_EVERY_S,
    EXPORT_FREE,
    EXPORT_HAS_BATCH,
    EXPORT_LEFT_OUT,
    EXPORT_RUNNING,
    EXPORT_VERSION,
    EXPORT_WAITING,
    EXPORTED_S,
    NONE,
    NUM_BLOCKS,
    Fleet,
)
from exp.twin.kernel.sequences import (
    BLOCKS_WANTED,
    NUM_ROWS,
    ROWS_FREE,
    ROWS_RUNNING,
    SEQS_RUNNING,
    SEQS_WAITING,
    UNPROCESSED_TOKENS,
    Population,
    is_unseen,
    lay_known,
    lay_unseen,
)
from predictor.simulator.kernel import layout as kernel
from predictor.simulator.kernel.compiled import entry, forget_outdated, inlined, seldom
from predictor.simulator.kernel.layout import Ints
from predictor.simulator.kernel.step_cost import chunk_s, mixed_step_s
from predictor.step_time.table import StepTable


@entry
def lay_out(
    fleet: Fleet,
    unit: int,
    beliefs: Beliefs,
    num_beliefs: int,
    table: StepTable,
    now_s: float,
    population: Population,
) -> float:
    """Fill the population, from a newer export of the engine's state if one is due.

    Returns the seconds that the batch in flight takes in all, 0 without one.
    """
    _refresh(fleet, unit, now_s)
    head, figures = fleet.export_heads[unit], population.figures
    figures[:] = 0
    num_running = head[EXPORT_RUNNING]
    num_rows = num_running + head[EXPORT_WAITING]
    told = fleet.exports[unit]
    for row in range(num_rows):
        lay_known(told[row], row, row < num_running, beliefs, now_s, population)
    for place in range(num_beliefs):
        belief = beliefs.order[place]
        if is_unseen(beliefs, belief, now_s, head[EXPORT_LEFT_OUT] > 0):
            lay_unseen(beliefs, belief, num_rows, now_s, population)
            num_rows += 1
        beliefs.facts[belief, MATCHED] = 0
    figures[NUM_ROWS] = num_rows
    figures[SEQS_RUNNING] = num_running
    figures[SEQS_WAITING] = num_rows - num_running
    _sum_up(population, num_running)
    _share_blocks(told, head[EXPORT_FREE], population)
    duration_s = _batch_s(told, num_running, table) if head[EXPORT_HAS_BATCH] else 0.0
    _end_batch(told, head[EXPORT_FREE], population)
    if population.limits[kernel.BY_PRIORITY] == 1:
        _sort_by_priority(population)
    return duration_s


@inlined
def _refresh(fleet: Fleet, unit: int, now_s: float) -> None:
    version = fleet.export_heads[unit, EXPORT_VERSION]
    age_s = now_s - fleet.clocks[unit, EXPORTED_S]
    is_due = version == NONE or age_s >= fleet.clocks[unit, EXPORT_EVERY_S]
    if is_due and version != fleet.engines[unit, CHANGES]:
        export_state(fleet, unit, now_s)


@inlined
def _sum_up(population: Population, num_running: int) -> None:
    figures, block_size = population.figures, population.limits[kernel.BLOCK_SIZE]
    for index in range(figures[NUM_ROWS]):
        row = population.rows[index]
        left = max(1, row[kernel.TOKENS] - row[kernel.COMPUTED])
        figures[UNPROCESSED_TOKENS] += left + row[kernel.REMAINING] - 1
        if index >= num_running:
            figures[BLOCKS_WANTED] += blocks_of(row[kernel.TOKENS], block_size)


@inlined
def _held(seq: Ints, block_size: int) -> int:
    """Blocks of a running sequence that serve its tokens."""
    return min(seq[NUM_BLOCKS], blocks_of(seq[COMPUTED] + seq[CHUNK], block_size))


@seldom
def _share_blocks(told: Ints, num_free: int, population: Population) -> None:
    """What running sequences hold beyond the used blocks is prefixes in common."""
    limits, rows = population.limits, population.rows
    block_size, num_running = limits[kernel.BLOCK_SIZE], population.figures[SEQS_RUNNING]
    shared = num_free - limits[kernel.NUM_BLOCKS]
    num_prefixes, most_prefixes = 0, 0
    for row in range(num_running):
        held = _held(told[row], block_size)
        shared += held
        prefix = min(held, rows[row, kernel.PROMPT] // block_size)
        num_prefixes += prefix
        most_prefixes = max(most_prefixes, prefix)
    if shared <= 0:
        return
    is_prefix = num_prefixes - most_prefixes >= shared
    longest = 0
    for row in range(num_running):
        most = _held(told[row], block_size)
        if is_prefix:
            most = min(most, rows[row, kernel.PROMPT] // block_size)
        borrowed = min(shared, most, longest)
        rows[row, kernel.SHARED_BLOCKS] = borrowed
        shared -= borrowed
        longest = max(longest, most)


@seldom
def _batch_s(told: Ints, num_running: int, table: StepTable) -> float:
    """Seconds that the batch in flight takes by the sidecar's own step times."""
    num_decodes, decode_kv, num_prefills, tokens, kv, attention, grid_s = 0, 0, 0, 0, 0, 0.0, 0.0
    for row in range(num_running):
        count, context = told[row, CHUNK], told[row, COMPUTED]
        if count == 1:
            num_decodes += 1
            decode_kv += context
        elif count > 1:
            num_prefills += 1
            tokens += count
            kv += context
            attention += count * (context + 0.5 * count)
            grid_s += chunk_s(table, count, context)
    return mixed_step_s(table, num_decodes, decode_kv, num_prefills, tokens, kv, attention, grid_s)


@seldom
def _end_batch(told: Ints, free: int, population: Population) -> None:
    """Count the tokens of the batch in flight, and drop the rows that end with it."""
    limits, rows, figures = population.limits, population.rows, population.figures
    block_size = limits[kernel.BLOCK_SIZE]
    num_kept, num_running, num_first = 0, 0, 0
    limits[kernel.HITS_END] = free
    for index in range(figures[NUM_ROWS]):
        row, is_running = rows[index], index < figures[SEQS_RUNNING]
        count = told[index, CHUNK] if is_running else 0
        if count > 0:
            row[kernel.COMPUTED] += count
            if row[kernel.COMPUTED] >= row[kernel.TOKENS]:
                row[kernel.TOKENS] += 1
                row[kernel.REMAINING] -= 1
            if row[kernel.REMAINING] == 0:
                num_full = row[kernel.COMPUTED] // block_size
                has_rest = num_full * block_size < row[kernel.COMPUTED]
                free += num_full + has_rest - row[kernel.SHARED_BLOCKS]
                num_first += has_rest  # a block that is not full is taken before all others
                continue
        if num_kept < index:
            _swap(population, num_kept, index)
        num_kept += 1
        num_running += is_running
    limits[kernel.HITS_BEGIN] = num_first
    limits[kernel.HITS_END] += num_first
    figures[NUM_ROWS] = num_kept
    figures[ROWS_RUNNING] = num_running
    figures[ROWS_FREE] = free


@seldom
def _sort_by_priority(population: Population) -> None:
    """The waiting rows, each behind all that are as urgent."""
    rows, first = population.rows, population.figures[ROWS_RUNNING]
    for index in range(first + 1, population.figures[NUM_ROWS]):
        place = index
        while place > first and rows[place - 1, kernel.PRIORITY] > rows[place, kernel.PRIORITY]:
            _swap(population, place - 1, place)
            place -= 1


@seldom
def _swap(population: Population, one: int, other: int) -> None:
    """Let two rows change places."""
    rows, goals = population.rows, population.goals
    for column in range(rows.shape[1]):
        rows[one, column], rows[other, column] = rows[other, column], rows[one, column]
    for column in range(goals.shape[1]):
        goals[one, column], goals[other, column] = goals[other, column], goals[one, column]


forget_outdated(lay_out, Path(__file__).parent)
