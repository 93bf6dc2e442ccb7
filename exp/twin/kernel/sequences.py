"""One sequence after the other as the what-if kernel reads it: a row, and the goals beside it.

The rules are those of ``build_population`` in ``predictor/overlay.py``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exp.twin.kernel import beliefs as believed
from exp.twin.kernel.beliefs import (
    CACHED_TOKENS,
    EXPECTED_TOKENS,
    FIRST_TOKEN_S,
    HAS_FIRST_TOKEN,
    MATCHED,
    NUM_POINTS,
    SENT_S,
    Beliefs,
)
from exp.twin.kernel.layout import (
    ARRIVAL,
    COMPUTED,
    HIT,
    INDEX,
    MAX_TOKENS,
    NONE,
    PRIORITY,
    PROMPT,
    TOKENS,
)
from predictor.overlay import DEFAULT_OUTPUT_TOKENS, MAX_UNSEEN_AGE_MS
from predictor.simulator.kernel import cost
from predictor.simulator.kernel import layout as kernel
from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.layout import Floats, Ints
from predictor.simulator.kernel.lengths import remaining_tokens

_AFTER_ALL = 1 << 39
"""By arrival: what the engine has not seen, which comes before any newcomer of ``load.py``."""

# Places in `figures`.
NUM_ROWS = 0
ROWS_RUNNING = 1
"""Rows of running sequences."""
ROWS_FREE = 2
"""Free blocks when the batch in flight has ended."""
BLOCKS_WANTED = 3
UNPROCESSED_TOKENS = 4
SEQS_RUNNING = 5
"""Before the batch in flight has ended."""
SEQS_WAITING = 6
HAS_GOALS = 7
NUM_FIGURES = 8


class Population(NamedTuple):
    """Room for one engine's sequences as the kernel reads them."""

    limits: Ints
    rows: Ints
    goals: Floats
    figures: Ints


def make_population(limits: Ints, num_rows: int) -> Population:
    """Of an engine with these limits, for up to ``num_rows`` sequences."""
    return Population(
        limits=limits.copy(),
        rows=np.zeros((num_rows, kernel.NUM_COLUMNS), dtype=np.int64),
        goals=np.zeros((num_rows, cost.NUM_GOAL_COLUMNS)),
        figures=np.zeros(NUM_FIGURES, dtype=np.int64),
    )


@seldom
def lay_known(
    seq: Ints, row: int, is_running: bool, beliefs: Beliefs, now_s: float, population: Population
) -> None:
    """A sequence of the engine's; what to expect of it is what its gateway has told, if any."""
    limits = population.limits
    index = seq[INDEX]
    belief = beliefs.row_of[index] if index < beliefs.row_of.size else NONE
    prompt, tokens = seq[PROMPT], seq[TOKENS]
    most = min(seq[MAX_TOKENS], limits[kernel.MAX_MODEL_LEN] - prompt)
    expected, num_points = DEFAULT_OUTPUT_TOKENS, 0
    if belief != NONE:
        beliefs.facts[belief, MATCHED] = 1
        expected = beliefs.numbers[belief, EXPECTED_TOKENS]
        num_points = beliefs.facts[belief, NUM_POINTS]
    points = beliefs.points[max(belief, 0)]
    remaining = remaining_tokens(expected, points, num_points, tokens - prompt, most)
    computed = seq[COMPUTED] if is_running else _prefix_hit(seq[HIT], tokens, limits)
    _write_row(population.rows[row], tokens, computed, remaining, max(1, most - tokens + prompt))
    population.rows[row, kernel.PRIORITY] = seq[PRIORITY]
    population.rows[row, kernel.ARRIVAL] = seq[ARRIVAL]
    population.rows[row, kernel.PROMPT] = prompt
    _lay_goals(beliefs, belief, population, row, now_s)


@inlined
def is_unseen(beliefs: Beliefs, belief: int, now_s: float, is_cut: bool) -> bool:
    """Does the engine not know it yet? It has ended since if it has a first token, and is lost if
    too old, but for queues whose end is left out."""
    facts = beliefs.facts[belief]
    if facts[MATCHED] == 1 or facts[HAS_FIRST_TOKEN] == 1:
        return False
    return is_cut or (now_s - beliefs.numbers[belief, SENT_S]) * 1e3 <= MAX_UNSEEN_AGE_MS


@seldom
def lay_unseen(
    beliefs: Beliefs, belief: int, row: int, now_s: float, population: Population
) -> None:
    """A request that waits at the queue's end, cut to what the engine could hold of it alone."""
    facts, limits = beliefs.facts[belief], population.limits
    most_blocks = limits[kernel.NUM_BLOCKS] * limits[kernel.BLOCK_SIZE]
    room = min(limits[kernel.MAX_MODEL_LEN], most_blocks)
    prompt = max(1, min(facts[believed.PROMPT], room - 1))
    most = room - prompt
    if facts[believed.MAX_TOKENS] != NONE:
        most = min(most, facts[believed.MAX_TOKENS])
    most = max(1, most)
    expected = beliefs.numbers[belief, EXPECTED_TOKENS]
    remaining = remaining_tokens(expected, beliefs.points[belief], facts[NUM_POINTS], 0, most)
    computed = 0
    if limits[kernel.PREFIX_CACHING] == 1:
        computed = _prefix_hit(facts[CACHED_TOKENS], prompt, limits)
    _write_row(population.rows[row], prompt, computed, remaining, most)
    population.rows[row, kernel.PRIORITY] = facts[believed.PRIORITY]
    population.rows[row, kernel.ARRIVAL] = _AFTER_ALL + row
    population.rows[row, kernel.PROMPT] = prompt
    _lay_goals(beliefs, belief, population, row, now_s)


@inlined
def _write_row(row: Ints, tokens: int, computed: int, remaining: int, most: int) -> None:
    row[kernel.TOKENS] = tokens
    row[kernel.COMPUTED] = computed
    row[kernel.REMAINING] = remaining
    row[kernel.ENDS_BY_LENGTH] = remaining >= most
    row[kernel.SHARED_BLOCKS] = 0


@inlined
def _prefix_hit(num_cached_tokens: int, num_tokens: int, limits: Ints) -> int:
    cached = min(num_cached_tokens, num_tokens - 1)
    return max(0, cached - cached % limits[kernel.BLOCK_SIZE])


@inlined
def _lay_goals(
    beliefs: Beliefs, belief: int, population: Population, row: int, now_s: float
) -> None:
    goals = population.goals[row]
    output = population.rows[row, kernel.TOKENS] - population.rows[row, kernel.PROMPT]
    goals[cost.OUTPUT_TOKENS] = output + population.rows[row, kernel.REMAINING]
    goals[cost.TTFT_GOAL_S] = np.inf
    goals[cost.TPOT_GOAL_S] = np.inf
    goals[cost.AGE_S] = 0.0
    goals[cost.FIRST_TOKEN_AGE_S] = np.nan
    if belief != NONE:
        numbers = beliefs.numbers[belief]
        goals[cost.TTFT_GOAL_S] = numbers[believed.TTFT_GOAL_S]
        goals[cost.TPOT_GOAL_S] = numbers[believed.TPOT_GOAL_S]
        goals[cost.AGE_S] = now_s - numbers[SENT_S]
        goals[cost.FIRST_TOKEN_AGE_S] = now_s - numbers[FIRST_TOKEN_S]
    if goals[cost.TTFT_GOAL_S] < np.inf or goals[cost.TPOT_GOAL_S] < np.inf:
        population.figures[HAS_GOALS] = 1
