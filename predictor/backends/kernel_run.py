"""Runs of the compiled kernel: memory that is used again, and errors for what it cannot play."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from predictor.errors import SimulationFailed
from predictor.simulator.kernel import sarathi, vllm
from predictor.simulator.kernel.layout import BLOCK_SIZE, NUM_TIMES, EngineArrays, Floats, Ints
from predictor.simulator.kernel.work import Work, make_work
from predictor.step_time.table import StepTable

Rules = Literal["vllm", "sarathi"]

MAX_EVENTS = 200_000
"""A full engine drains in a few thousand; what takes more is no state of a real one."""

NO_MARKS: Ints = np.zeros(0, dtype=np.int64)
_NO_TRACE: Ints = np.zeros((0, 3), dtype=np.int64)


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
        self._longest_step_s = np.zeros(1)
        self._marked_s = np.zeros(64)
        self._reserve(64, 16)

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
        size, block_size = len(engine.rows) + len(newcomers), int(engine.limits[BLOCK_SIZE])
        if size > self._capacity or block_size != self._block_size:
            self._reserve(size, block_size)
        if len(marks) > len(self._marked_s):
            self._marked_s = np.zeros(len(marks))
        times, marked_s = self._times[:size], self._marked_s[: len(marks)]
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
            self._work,
            times,
            marked_s,
            self._longest_step_s,
            _NO_TRACE,
        )
        if status != vllm.PLAYED:
            raise SimulationFailed(
                "the scheduler never admits the request"
                if status == vllm.STUCK
                else f"the request has not ended after {MAX_EVENTS} events"
            )
        return Run(times, marked_s, float(self._longest_step_s[0]), self._work.counters)

    def _reserve(self, size: int, block_size: int) -> None:
        """Memory for twice as many sequences, so that a growing queue seldom asks again."""
        self._capacity, self._block_size = 2 * size, block_size
        self._work: Work = make_work(self._capacity, block_size)
        self._times: Floats = np.zeros((self._capacity, NUM_TIMES))
