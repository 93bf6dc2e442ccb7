"""What a newcomer costs the others: their times with it against their times without."""

from __future__ import annotations

import numpy as np

from predictor.overlay import Population
from predictor.simulator.kernel.compiled import entry, inlined
from predictor.simulator.kernel.layout import END, FIRST_TOKEN, NEVER, Floats, Ints

# Columns of `goals`, a row for each sequence; infinite or NaN where there is no such goal or time.
TTFT_GOAL_S = 0
TPOT_GOAL_S = 1
AGE_S = 2
FIRST_TOKEN_AGE_S = 3
"""NaN before the first token."""
OUTPUT_TOKENS = 4
"""Of the whole answer, as expected."""
NUM_GOAL_COLUMNS = 5


def goals_of(population: Population, rows_of: Ints) -> Floats:
    """The latency goals of the population's sequences; no rows if there are none."""
    sequences = population.running + population.waiting
    if all(sequence.slo is None for sequence in sequences):
        return np.zeros((0, NUM_GOAL_COLUMNS))
    goals = np.full((len(rows_of), NUM_GOAL_COLUMNS), np.inf)
    for row, index in enumerate(rows_of):
        sequence = sequences[index]
        goals[row, AGE_S] = sequence.age_s
        age_s = sequence.first_token_age_s
        goals[row, FIRST_TOKEN_AGE_S] = np.nan if age_s is None else age_s
        goals[row, OUTPUT_TOKENS] = sequence.num_output_tokens + sequence.remaining_tokens
        if sequence.slo is not None and sequence.slo.ttft_ms is not None:
            goals[row, TTFT_GOAL_S] = sequence.slo.ttft_ms / 1e3
        if sequence.slo is not None and sequence.slo.tpot_ms is not None:
            goals[row, TPOT_GOAL_S] = sequence.slo.tpot_ms / 1e3
    return goals


@entry
def added_delays(times: Floats, alone: Floats) -> tuple[float, float]:
    """(sum, maximum) of how much later the sequences of ``alone`` end in ``times``; seconds."""
    total, most = 0.0, 0.0
    for slot in range(alone.shape[0]):
        if alone[slot, END] != NEVER and times[slot, END] != NEVER:
            delay_s = times[slot, END] - alone[slot, END]
            total += delay_s
            most = max(most, delay_s)
    return max(0.0, total), most


@entry
def count_broken(times: Floats, alone: Floats, goals: Floats, start_s: float) -> int:
    """Sequences that miss a goal in ``times`` and miss none in ``alone``.

    Times count from ``start_s`` after the moment for which the ages in ``goals`` are given.
    """
    count = 0
    for slot in range(goals.shape[0]):
        goal = goals[slot]
        if _misses(times[slot], goal, start_s) and not _misses(alone[slot], goal, start_s):
            count += 1
    return count


@inlined
def _misses(times: Floats, goals: Floats, start_s: float) -> bool:
    has_first_token = not np.isnan(goals[FIRST_TOKEN_AGE_S])
    if not has_first_token and start_s + times[FIRST_TOKEN] + goals[AGE_S] > goals[TTFT_GOAL_S]:
        return True
    if times[END] == NEVER or goals[OUTPUT_TOKENS] < 2:
        return False
    since_first_s = times[END] - times[FIRST_TOKEN]
    if has_first_token:
        since_first_s = start_s + times[END] + goals[FIRST_TOKEN_AGE_S]
    return since_first_s / (goals[OUTPUT_TOKENS] - 1) > goals[TPOT_GOAL_S]
