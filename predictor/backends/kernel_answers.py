"""What-ifs on an engine that is laid out for the kernel: what its runs say of the newcomers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor.backends.base import Answer, BacklogAnswer
from predictor.backends.kernel_run import KernelRunner, Rules, Run
from predictor.overlay import SimulatedSequence
from predictor.simulator.kernel.cost import added_delays, count_broken
from predictor.simulator.kernel.layout import (
    END,
    MAX_NUM_SEQS,
    NEVER,
    REMAINING,
    EngineArrays,
    Floats,
    Ints,
)
from predictor.simulator.kernel.lengths import over_lengths
from predictor.simulator.kernel.load import newcomer_rows
from predictor.simulator.kernel.work import OWN_PREEMPTIONS, PREEMPTIONS_MET
from predictor.step_time.table import StepTable


class LoadedEngine:
    """What questions about the same sequences share. Times count from the end of what is in flight.

    ``alone`` are the times without a newcomer, once they are known.
    """

    def __init__(self, arrays: EngineArrays, goals: Floats, table: StepTable) -> None:
        """``goals`` are those of ``simulator/kernel/cost.py``, with a row for each of the arrays'
        or, where there are none, without rows."""
        self.arrays = arrays
        self.goals = goals
        self.table = table
        self.size = len(arrays.rows)
        self.alone: Floats | None = None
        self.alone_longest_step_s = 0.0


class KernelAnswers:
    """Asks the compiled kernel. One thread at a time."""

    def __init__(self, rules: Rules) -> None:
        self._runner = KernelRunner(rules)

    def answer(
        self,
        engine: LoadedEngine,
        newcomer: SimulatedSequence,
        start_s: float,
        *,
        cost_to_others: bool,
    ) -> Answer:
        """What the newcomer would meet, ``start_s`` being when the batches in flight have ended.

        Raises:
            SimulationFailed: it can never be admitted, or there is no end in sight.
        """
        if cost_to_others:
            return self._answer_with_costs(engine, newcomer, start_s)
        return self._answer(engine, newcomer, start_s)

    def drain(
        self,
        engine: LoadedEngine,
        backlog: Sequence[SimulatedSequence],
        start_s: float,
        max_num_seqs: int | None,
    ) -> BacklogAnswer:
        """What if all of the backlog came now? See ``Backend.drain``. Raises as ``answer``."""
        alone = self._alone(engine)
        rows = newcomer_rows(backlog)
        arrays = engine.arrays
        if max_num_seqs is not None:
            limits = arrays.limits.copy()
            limits[MAX_NUM_SEQS] = min(limits[MAX_NUM_SEQS], max_num_seqs)
            arrays = arrays._replace(limits=limits)
        run = self._runner.play(arrays, rows, engine.table, until_all=True)
        last_s = float(run.times[:, END].max(initial=NEVER))
        return BacklogAnswer(
            requests=tuple(
                _answers_of(run, engine.size, [one.remaining_tokens for one in backlog], start_s)
            ),
            drain_s=start_s + last_s if last_s != NEVER else 0.0,
            added_delay_others_s=added_delays(run.times, alone)[0],
            num_slo_broken=count_broken(run.times, alone, engine.goals, start_s),
        )

    def _answer(self, engine: LoadedEngine, newcomer: SimulatedSequence, start_s: float) -> Answer:
        """Its own latencies; one run times every length that it may have."""
        rows = newcomer_rows((newcomer,))
        lengths = sorted({tokens for _, tokens in newcomer.output_quantiles})
        if not lengths:
            run = self._runner.play(engine.arrays, rows, engine.table, until_all=False)
            return _answers_of(run, engine.size, [newcomer.remaining_tokens], start_s)[0]
        rows[0, REMAINING] = lengths[0]
        marks = np.array(lengths, dtype=np.int64)
        run = self._runner.play(engine.arrays, rows, engine.table, until_all=False, marks=marks)
        (answer,) = _answers_of(run, engine.size, lengths[-1:], start_s)
        _spread(answer, run, marks, newcomer, start_s)
        return answer

    def _answer_with_costs(
        self, engine: LoadedEngine, newcomer: SimulatedSequence, start_s: float
    ) -> Answer:
        """What it costs the others is taken for its expected length."""
        alone = self._alone(engine)
        rows = newcomer_rows((newcomer,))
        run = self._runner.play(engine.arrays, rows, engine.table, until_all=True)
        delay_s, max_delay_s = added_delays(run.times, alone)
        gap_s = max(0.0, run.longest_step_s - engine.alone_longest_step_s)
        num_broken = count_broken(run.times, alone, engine.goals, start_s)
        (answer,) = _answers_of(run, engine.size, [newcomer.remaining_tokens], start_s)
        if newcomer.output_quantiles:
            answer = self._answer(engine, newcomer, start_s)
        answer.added_delay_others_s = delay_s
        answer.max_added_delay_s = max_delay_s
        answer.added_gap_s = gap_s
        answer.num_slo_broken = num_broken
        return answer

    def _alone(self, engine: LoadedEngine) -> Floats:
        if engine.alone is None:
            nobody = newcomer_rows(())
            run = self._runner.play(engine.arrays, nobody, engine.table, until_all=True)
            engine.alone = run.times.copy()
            engine.alone_longest_step_s = run.longest_step_s
        return engine.alone


def _answers_of(run: Run, first: int, num_tokens: Sequence[int], start_s: float) -> list[Answer]:
    """Those of the newcomers, which come from slot ``first`` on, by their output lengths."""
    num_preempted: int = run.counters.item(PREEMPTIONS_MET)
    num_own_preemptions: int = run.counters.item(OWN_PREEMPTIONS)
    return [
        Answer(
            queue_s=start_s + queue_s,
            ttft_s=start_s + ttft_s,
            tpot_s=(e2e_s - ttft_s) / max(1, tokens - 1),
            e2e_s=start_s + e2e_s,
            added_delay_others_s=0.0,
            num_preempted=num_preempted,
            num_own_preemptions=num_own_preemptions,
        )
        for (queue_s, ttft_s, e2e_s), tokens in zip(
            run.times[first:].tolist(), num_tokens, strict=True
        )
    ]


def _spread(
    answer: Answer, run: Run, marks: Ints, newcomer: SimulatedSequence, start_s: float
) -> None:
    """Make the answer, which is that for the longest of the lengths, one for all of them."""
    points = np.array(newcomer.output_quantiles)
    first_token_s = answer.ttft_s - start_s
    mean_s, p50_s, p90_s, mean_tokens = over_lengths(
        points,
        marks,
        run.marked_s,
        first_token_s,
        answer.tpot_s,
        newcomer.max_remaining_tokens,
        np.empty_like(points),
    )
    answer.tpot_s = mean_s / max(1.0, mean_tokens - 1.0)
    answer.e2e_s = answer.ttft_s + mean_s
    answer.e2e_p50_s = answer.ttft_s + p50_s
    answer.e2e_p90_s = answer.ttft_s + p90_s
