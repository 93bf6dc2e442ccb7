"""One question in one call: the runs with a newcomer and without it, and what they say of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from predictor.overlay import SimulatedSequence
from predictor.simulator.kernel import sarathi, vllm
from predictor.simulator.kernel.compiled import entry, forget_outdated, generic, seldom
from predictor.simulator.kernel.cost import added_delays, count_broken
from predictor.simulator.kernel.layout import (
    END,
    FIRST_TOKEN,
    NEVER,
    NUM_TIMES,
    QUEUE,
    REMAINING,
    EngineArrays,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lengths import over_lengths
from predictor.simulator.kernel.load import newcomer_rows
from predictor.simulator.kernel.vllm import PLAYED
from predictor.simulator.kernel.work import OWN_PREEMPTIONS, PREEMPTIONS_MET, Work, make_work
from predictor.step_time.table import StepTable

# Places in `found`; seconds as in `backends.base.Answer`.
QUEUE_S = 0
TTFT_S = 1
TPOT_S = 2
E2E_S = 3
E2E_P50_S = 4
"""With its p90 only where the newcomer's length is known by points."""
E2E_P90_S = 5
ADDED_DELAY_OTHERS_S = 6
MAX_ADDED_DELAY_S = 7
ADDED_GAP_S = 8
NUM_SLO_BROKEN = 9
NUM_PREEMPTED = 10
NUM_OWN_PREEMPTIONS = 11
ALONE_LONGEST_STEP_S = 12
NUM_FOUND = 13


class Newcomer(NamedTuple):
    """A request that would arrive now."""

    rows: Ints
    """Two, of the expected length and of the shortest that it may have."""
    marks: Ints
    """The lengths that it may have, rising; none where only one is known."""
    points: Floats
    """(probability, tokens) of each."""
    max_tokens: int


class Scratch(NamedTuple):
    """Memory that is used again for every question."""

    work: Work
    times: Floats
    marked_s: Floats
    """As long as there may be marks."""
    decode_s: Floats
    longest_step_s: Floats
    trace: Ints


def make_scratch(num_sequences: int, block_size: int, num_points: int) -> Scratch:
    """For engines of up to so many sequences, the newcomer included."""
    return Scratch(
        work=make_work(num_sequences, block_size),
        times=np.zeros((num_sequences, NUM_TIMES)),
        marked_s=np.zeros(num_points),
        decode_s=np.zeros((num_points, 2)),
        longest_step_s=np.zeros(1),
        trace=np.zeros((0, 3), dtype=np.int64),
    )


def load_newcomer(sequence: SimulatedSequence) -> Newcomer:
    """A sequence as questions about it have it."""
    lengths = sorted({tokens for _, tokens in sequence.output_quantiles})
    rows = newcomer_rows((sequence,)).repeat(2, axis=0)
    if lengths:
        rows[1, REMAINING] = lengths[0]
    return Newcomer(
        rows,
        np.array(lengths, dtype=np.int64),
        np.array(sequence.output_quantiles, dtype=np.float64).reshape(-1, 2),
        sequence.max_remaining_tokens,
    )


class Question(NamedTuple):
    """What a newcomer would meet and, ``with_costs``, what it costs the others."""

    engine: EngineArrays
    goals: Floats
    table: StepTable
    start_s: float
    """Until the batches in flight have ended."""
    with_costs: bool
    newcomer: Newcomer
    alone: Floats
    """Gets the times without the newcomer, or has them already:"""
    alone_longest_step_s: float
    """then this is not NEVER."""
    max_events: int
    scratch: Scratch
    found: Floats
    """Gets the answer."""


@generic
def _ask(play: Any, question: Question) -> int:
    """Answer by the rules of ``play``; returns the first status that is not PLAYED."""
    newcomer, table, scratch, found = (
        question.newcomer,
        question.table,
        question.scratch,
        question.found,
    )
    with_costs, alone, max_events = question.with_costs, question.alone, question.max_events
    alone_longest_step_s = question.alone_longest_step_s
    limits, rows, num_running, num_free_blocks = question.engine
    work, longest_s, size = scratch.work, scratch.longest_step_s, rows.shape[0]
    times, marked_s = scratch.times[: size + 1], scratch.marked_s
    expected, no_marks = newcomer.rows[:1], newcomer.marks[:0]
    status, is_known = PLAYED, not with_costs or alone_longest_step_s != NEVER
    if not is_known:
        status = play(
            *(limits, rows, num_running, num_free_blocks, expected[:0], table, 0.0, True),
            *(no_marks, max_events, work, alone, marked_s, longest_s, scratch.trace),
        )
        alone_longest_step_s = longest_s[0]
    found[ALONE_LONGEST_STEP_S] = alone_longest_step_s
    num_tokens = expected[0, REMAINING]
    if status == PLAYED and (with_costs or newcomer.marks.size == 0):
        status = play(
            *(limits, rows, num_running, num_free_blocks, expected, table, 0.0, with_costs),
            *(no_marks, max_events, work, times, marked_s, longest_s, scratch.trace),
        )
        if with_costs:
            delay_s, most_s = added_delays(times, alone)
            found[ADDED_DELAY_OTHERS_S] = delay_s
            found[MAX_ADDED_DELAY_S] = most_s
            found[ADDED_GAP_S] = max(0.0, longest_s[0] - alone_longest_step_s)
            found[NUM_SLO_BROKEN] = count_broken(times, alone, question.goals, question.start_s)
    if status == PLAYED and newcomer.marks.size > 0:
        status = play(
            *(limits, rows, num_running, num_free_blocks, newcomer.rows[1:], table, 0.0, False),
            *(newcomer.marks, max_events, work, times, marked_s, longest_s, scratch.trace),
        )
        num_tokens = newcomer.marks[-1]
    _note_latencies(times[size], num_tokens, question)
    return status


@seldom
def _note_latencies(own: Floats, num_tokens: int, question: Question) -> None:
    """Of the last run: times count from ``start_s`` in it, and from now in ``found``."""
    newcomer, scratch, found = question.newcomer, question.scratch, question.found
    counters, marks, start_s = scratch.work.counters, newcomer.marks, question.start_s
    ttft_s = start_s + own[FIRST_TOKEN]
    tpot_s = (own[END] - own[FIRST_TOKEN]) / max(1, num_tokens - 1)
    found[QUEUE_S] = start_s + own[QUEUE]
    found[TTFT_S] = ttft_s
    found[TPOT_S] = tpot_s
    found[E2E_S] = start_s + own[END]
    found[NUM_PREEMPTED] = counters[PREEMPTIONS_MET]
    found[NUM_OWN_PREEMPTIONS] = counters[OWN_PREEMPTIONS]
    if marks.size > 0:
        mean_s, p50_s, p90_s, mean_tokens = over_lengths(
            newcomer.points,
            marks,
            scratch.marked_s,
            ttft_s - start_s,
            tpot_s,
            newcomer.max_tokens,
            scratch.decode_s,
        )
        found[TPOT_S] = mean_s / max(1.0, mean_tokens - 1.0)
        found[E2E_S] = ttft_s + mean_s
        found[E2E_P50_S] = ttft_s + p50_s
        found[E2E_P90_S] = ttft_s + p90_s


@entry
def ask_vllm(question: Question) -> int:
    """``_ask`` by the rules of vLLM's scheduler."""
    return _ask(vllm.play, question)


@entry
def ask_sarathi(question: Question) -> int:
    """``_ask`` by those of stock Vidur's."""
    return _ask(sarathi.play, question)


forget_outdated(ask_vllm)
