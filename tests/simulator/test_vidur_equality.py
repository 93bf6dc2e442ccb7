"""The compiled ``sarathi`` rules against stock Vidur's scheduler, from the same random states."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest

from predictor.backends.base import Answer
from predictor.backends.fast import FastBackend
from predictor.backends.kernel_run import MAX_EVENTS, NO_MARKS, KernelRunner, Run
from predictor.backends.vidur import VidurBackend
from predictor.backends.vidur_predictor import TablePredictor, replica_config
from predictor.backends.vidur_run import VidurRun
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.kernel import sarathi
from predictor.simulator.kernel.layout import FIRST_TOKEN, NEVER, NUM_TIMES, QUEUE, Ints
from predictor.simulator.kernel.load import load_population, newcomer_rows
from predictor.simulator.kernel.vidur_state import as_vidur
from predictor.simulator.kernel.work import NUM_TRACED, make_work
from predictor.step_time.base import BatchShape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.table import StepTable
from predictor.step_time.vidur_step_time import VidurStepTime
from predictor.step_time.vidur_tables import RooflineTimes, build_tables
from tests.predictor.engines import MODEL
from tests.predictor.engines import limits as engine_limits
from tests.simulator.random_engines import MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS, RandomEngine
from wire.prediction import Slo

Batch = list[tuple[int, int]]
"""(row, tokens) in scheduling order."""

NUM_STATES = 500
RELATIVE = 1e-9
GPU = find_gpu("A30")
TIMES = RooflineTimes(MODEL, GPU)
STEP_TIME = VidurStepTime(TIMES, MODEL, GPU)
TABLE = STEP_TIME.tabulate(MAX_NUM_BATCHED_TOKENS, MAX_NUM_SEQS)


class Tabulated:
    """A step-time model that has its table already, large enough for all engines here."""

    def step_s(self, shape: BatchShape) -> float:
        """See ``StepTimeModel``."""
        return STEP_TIME.step_s(shape)

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``."""
        return TABLE


class Stock:
    """Stock Vidur with one set of tables for all engines."""

    def __init__(self) -> None:
        """Build the tables."""
        limits = engine_limits(max_num_seqs=MAX_NUM_SEQS)
        self._replica = replica_config(MODEL)
        self._predictor = TablePredictor(build_tables(TIMES, MODEL, GPU, limits), self._replica)

    def run(self, state: Population, newcomers: Sequence[SimulatedSequence]) -> VidurRun:
        """A run that has not begun."""
        return VidurRun(state, self._predictor, self._replica, newcomers)


@pytest.fixture(scope="module")
def stock() -> Stock:
    """Its tables take a moment."""
    return Stock()


@pytest.fixture(scope="module")
def fast() -> FastBackend:
    """Compiled once."""
    return FastBackend(Tabulated(), rules="sarathi")


def test_what_ifs_equal_those_of_stock_vidur(stock: Stock, fast: FastBackend) -> None:
    """The newcomer's queue time, TTFT, E2E and preemptions, when all others have their first
    tokens and end, and the longest step; where stock Vidur stalls, so do we."""
    runner, crashed, num_stalled, num_preempted = KernelRunner("sarathi"), [], 0, 0
    for seed in range(NUM_STATES):
        engine = RandomEngine(seed)
        state, newcomer = engine.population(), engine.question()
        run = stock.run(state, [newcomer])
        start_s = run.clock_s
        try:
            run.play_newcomers()
        except (AssertionError, LookupError) as error:
            crashed.append((seed, repr(error)))
            continue
        except SimulationFailed:
            num_stalled += 1
            with pytest.raises(SimulationFailed, match="never admits"):
                own_times(fast, state, newcomer)
            continue
        num_preempted += run.num_preempted > 0
        expected = [*run.times()[-1], run.num_preempted, run.newcomers[0].num_restarts]
        assert own_times(fast, state, newcomer) == pytest.approx(expected, rel=RELATIVE), seed
        run.play_out()
        arrays = as_vidur(load_population(state), state).engine
        ours = runner.play(arrays, newcomer_rows([newcomer]), TABLE, until_all=True)
        check_all_times(run, ours, start_s, seed)
    assert len(crashed) <= NUM_STATES // 100, crashed
    assert num_stalled <= NUM_STATES // 100
    assert num_preempted >= NUM_STATES // 5


def own_times(fast: FastBackend, state: Population, newcomer: SimulatedSequence) -> list[float]:
    """Queue time, TTFT, E2E, all preemptions and the newcomer's."""
    answer = next(fast.predict(state, [newcomer], cost_to_others=False))
    counts = answer.num_preempted, answer.num_own_preemptions
    return [answer.queue_s, answer.ttft_s, answer.e2e_s, *counts]


def check_all_times(stock: VidurRun, ours: Run, start_s: float, seed: int) -> None:
    """Both have been played out from ``start_s``, when the batches in flight ended."""
    times, expected = ours.times, stock.times()
    times = np.where(times == NEVER, NEVER, times + start_s)
    assert times[:, FIRST_TOKEN:] == pytest.approx(expected[:, FIRST_TOKEN:], rel=RELATIVE), seed
    is_told = expected[:, QUEUE] != NEVER
    assert times[is_told, QUEUE] == pytest.approx(expected[is_told, QUEUE], rel=RELATIVE), seed
    assert ours.longest_step_s == pytest.approx(stock.longest_step_s, rel=RELATIVE), seed


def test_every_batch_is_that_of_stock_vidur(stock: Stock) -> None:
    """The same sequences in the same order with the same tokens, step by step."""
    for seed in range(NUM_STATES, NUM_STATES + 60):
        engine = RandomEngine(seed)
        state, newcomer = engine.population(), engine.question()
        assert traced(state, newcomer) == stock_batches(stock, state, newcomer), seed


def stock_batches(stock: Stock, state: Population, newcomer: SimulatedSequence) -> list[Batch]:
    """Those of stock Vidur, until nothing is left to do."""
    run = stock.run(state, [newcomer])
    row_of = {request.id: row for row, request in enumerate(run.others + run.newcomers)}
    batches: list[Batch] = []
    schedule = run._scheduler.on_schedule

    def noting(clock_s: float) -> Any:
        batch = schedule(clock_s)
        if batch is not None:
            rows = [row_of[request.id] for request in batch.requests]
            batches.append(list(zip(rows, batch.num_q_tokens, strict=True)))
        return batch

    run._scheduler.on_schedule = noting
    run.play_out()
    return batches


def traced(state: Population, newcomer: SimulatedSequence) -> list[Batch]:
    """Those of the kernel."""
    engine = as_vidur(load_population(state), state).engine
    size = len(engine.rows) + 1
    work = make_work(size, state.limits.block_size)
    trace: Ints = np.zeros((10**5, 3), dtype=np.int64)
    sarathi.play(
        engine.limits,
        engine.rows,
        engine.num_running,
        engine.num_free_blocks,
        newcomer_rows([newcomer]),
        TABLE,
        0.0,
        True,
        NO_MARKS,
        MAX_EVENTS,
        work,
        np.zeros((size, NUM_TIMES)),
        np.zeros(0),
        np.zeros(1),
        trace,
    )
    batches: dict[int, Batch] = {}
    for step, row, tokens in trace[: work.counters[NUM_TRACED]].tolist():
        batches.setdefault(step, []).append((row, tokens))
    return [batches[step] for step in sorted(batches)]


@pytest.mark.parametrize("seed", range(4))
def test_both_backends_give_the_same_answers(fast: FastBackend, seed: int) -> None:
    """With the cost to others and their goals, and for a backlog."""
    engine = RandomEngine(seed)
    state, questions = engine.population(), [engine.question() for _ in range(3)]
    state = replace(state, running=with_goals(state.running), waiting=with_goals(state.waiting))
    stock = VidurBackend(MODEL, GPU, TIMES)
    answers = zip(fast.predict(state, questions), stock.predict(state, questions), strict=True)
    for ours, theirs in answers:
        assert figures(ours) == pytest.approx(figures(theirs), rel=RELATIVE)
    most = (None, len(state.running) + 1)[seed % 2]
    drained, reference = fast.drain(state, questions, most), stock.drain(state, questions, most)
    assert drained.drain_s == pytest.approx(reference.drain_s, rel=RELATIVE)
    assert drained.num_slo_broken == reference.num_slo_broken
    delays_s = drained.added_delay_others_s, reference.added_delay_others_s
    assert delays_s[0] == pytest.approx(delays_s[1], rel=RELATIVE)
    for ours, theirs in zip(drained.requests, reference.requests, strict=True):
        theirs = replace(theirs, num_own_preemptions=ours.num_own_preemptions)
        assert figures(ours) == pytest.approx(figures(theirs), rel=RELATIVE)


def with_goals(sequences: Sequence[SimulatedSequence]) -> tuple[SimulatedSequence, ...]:
    """Some of which are near to what the sequences will meet."""
    slos = [Slo(ttft_ms=200.0 * (1 + index), tpot_ms=20.0 + index) for index in range(10)]
    return tuple(
        replace(sequence, slo=slo)
        for sequence, slo in zip(sequences, itertools.cycle(slos), strict=False)
    )


def figures(answer: Answer) -> list[float]:
    """All numbers of an answer."""
    return [number for number in astuple(answer) if number is not None]
