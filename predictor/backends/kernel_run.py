"""Runs of the compiled kernel: memory that is used again, and errors for what it cannot play."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from predictor.errors import SimulationFailed
from predictor.simulator.kernel import sarathi, vllm, what_if
from predictor.simulator.kernel.compiled import machine_code
from predictor.simulator.kernel.layout import BLOCK_SIZE, EngineArrays, Floats, Ints
from predictor.simulator.kernel.what_if import Newcomer, Question, make_scratch
from predictor.step_time.table import StepTable

Rules = Literal["vllm", "sarathi"]

MAX_EVENTS = 200_000
"""A full engine drains in a few thousand; what takes more is no state of a real one."""

NO_MARKS: Ints = np.zeros(0, dtype=np.int64)


class Run(NamedTuple):
    """What a run found; arrays that the next run overwrites."""

    times: Floats
    """A row for each sequence, newcomers last; see ``layout``."""
    marked_s: Floats
    """When the newcomer had produced each of the marked numbers of tokens."""
    longest_step_s: float
    counters: Ints


class KernelRunner:
    """Plays engines by one set of rules. One thread at a time."""

    def __init__(self, rules: Rules) -> None:
        """Compiles, or loads from numba's cache, at the first run."""
        self.rules: Rules = rules
        self._play = {"vllm": vllm.play, "sarathi": sarathi.play}[rules]
        self._ask = {"vllm": what_if.ask_vllm, "sarathi": what_if.ask_sarathi}[rules]
        self._ask_quickly: Callable[..., int]
        self._asked_table: StepTable | None = None
        self._found = np.zeros(what_if.NUM_FOUND)
        self._reserve(64, 16, 64)

    def play(
        self,
        engine: EngineArrays,
        newcomers: Ints,
        table: StepTable,
        *,
        until_all: bool,
        marks: Ints = NO_MARKS,
    ) -> Run:
        """Play until the newcomers have ended, or ``until_all`` have; see ``vllm.play``.

        Times count from the end of the batches in flight.

        Raises:
            SimulationFailed: a newcomer can never be admitted, or there is no end in sight.
        """
        size = len(engine.rows) + len(newcomers)
        self._make_room(size, int(engine.limits[BLOCK_SIZE]), len(marks))
        scratch = self._scratch
        times, marked_s = scratch.times[:size], scratch.marked_s[: len(marks)]
        status = self._play(
            engine.limits,
            engine.rows,
            engine.num_running,
            engine.num_free_blocks,
            newcomers,
            table,
            0.0,
            until_all,
            marks,
            MAX_EVENTS,
            scratch.work,
            times,
            marked_s,
            scratch.longest_step_s,
            scratch.trace,
        )
        _check(status)
        return Run(times, marked_s, float(scratch.longest_step_s[0]), scratch.work.counters)

    def ask(
        self,
        engine: EngineArrays,
        goals: Floats,
        newcomer: Newcomer,
        table: StepTable,
        start_s: float,
        *,
        with_costs: bool,
        alone: Floats,
        alone_longest_step_s: float,
    ) -> list[float]:
        """What a newcomer would meet and cost, in the places of ``what_if``; ``alone`` is as there.

        Raises:
            SimulationFailed: as ``play``.
        """
        num_points = len(newcomer.points)
        self._make_room(len(engine.rows) + 1, int(engine.limits[BLOCK_SIZE]), num_points)
        question = Question(
            engine,
            goals,
            table,
            start_s,
            with_costs,
            newcomer,
            alone,
            alone_longest_step_s,
            MAX_EVENTS,
            self._scratch,
            self._found,
        )
        if table is not self._asked_table:  # whose arrays alone come from elsewhere
            self._ask_quickly = machine_code(self._ask, question)
            self._asked_table = table
        _check(self._ask_quickly(question))
        found: list[float] = self._found.tolist()
        return found

    def _make_room(self, size: int, block_size: int, num_points: int) -> None:
        if (
            size > self._capacity
            or block_size != self._block_size
            or num_points > len(self._scratch.marked_s)
        ):
            self._reserve(size, block_size, num_points)

    def _reserve(self, size: int, block_size: int, num_points: int) -> None:
        """Memory for twice as much, so that a growing queue seldom asks again."""
        self._capacity, self._block_size = 2 * size, block_size
        self._scratch = make_scratch(self._capacity, block_size, 2 * num_points)


def _check(status: int) -> None:
    if status != vllm.PLAYED:
        raise SimulationFailed(
            "the scheduler never admits the request"
            if status == vllm.STUCK
            else f"the request has not ended after {MAX_EVENTS} events"
        )
