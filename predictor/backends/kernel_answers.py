"""What-ifs on an engine that is laid out for the kernel: what its runs say of the newcomers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from predictor.backends.base import Answer, BacklogAnswer
from predictor.backends.kernel_run import KernelRunner, Rules, Run
from predictor.overlay import SimulatedSequence
from predictor.simulator.kernel import what_if
from predictor.simulator.kernel.cost import added_delays, count_broken
from predictor.simulator.kernel.layout import (
    END,
    MAX_NUM_SEQS,
    NEVER,
    NUM_TIMES,
    EngineArrays,
    Floats,
)
from predictor.simulator.kernel.load import newcomer_rows
from predictor.simulator.kernel.what_if import Newcomer
from predictor.simulator.kernel.work import OWN_PREEMPTIONS, PREEMPTIONS_MET
from predictor.step_time.table import StepTable


class LoadedEngine:
    """What questions about the same sequences share. Times count from the end of what is in flight.

    ``alone`` are the times without a newcomer. They are known once ``alone_longest_step_s``, the
    longest step among them in which anyone decodes, is not NEVER any more.
    """

    def __init__(self, arrays: EngineArrays, goals: Floats, table: StepTable) -> None:
        """``goals`` are those of ``simulator/kernel/cost.py``, with a row for each of the arrays'
        or, where there are none, without rows."""
        self.arrays = arrays
        self.goals = goals
        self.table = table
        self.size = len(arrays.rows)
        self.alone = np.empty((self.size, NUM_TIMES))
        self.alone_longest_step_s = NEVER


class KernelAnswers:
    """Asks the compiled kernel. One thread at a time."""

    def __init__(self, rules: Rules) -> None:
        self._runner = KernelRunner(rules)

    def answer(
        self,
        engine: LoadedEngine,
        newcomer: Newcomer,
        start_s: float,
        *,
        cost_to_others: bool,
    ) -> Answer:
        """What the newcomer would meet, ``start_s`` being when the batches in flight have ended.

        What it costs the others is taken for its expected length; one more run times every length
        that it may have.

        Raises:
            SimulationFailed: it can never be admitted, or there is no end in sight.
        """
        found = self._runner.ask(
            engine.arrays,
            engine.goals,
            newcomer,
            engine.table,
            start_s,
            with_costs=cost_to_others,
            alone=engine.alone,
            alone_longest_step_s=engine.alone_longest_step_s,
        )
        engine.alone_longest_step_s = found[what_if.ALONE_LONGEST_STEP_S]
        return _answer_of(found, len(newcomer.marks) > 0, cost_to_others)

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

    def _alone(self, engine: LoadedEngine) -> Floats:
        if engine.alone_longest_step_s == NEVER:
            nobody = newcomer_rows(())
            run = self._runner.play(engine.arrays, nobody, engine.table, until_all=True)
            engine.alone[:] = run.times
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


def _answer_of(found: list[float], has_points: bool, has_costs: bool) -> Answer:
    return Answer(
        queue_s=found[what_if.QUEUE_S],
        ttft_s=found[what_if.TTFT_S],
        tpot_s=found[what_if.TPOT_S],
        e2e_s=found[what_if.E2E_S],
        added_delay_others_s=found[what_if.ADDED_DELAY_OTHERS_S] if has_costs else 0.0,
        num_preempted=int(found[what_if.NUM_PREEMPTED]),
        num_own_preemptions=int(found[what_if.NUM_OWN_PREEMPTIONS]),
        max_added_delay_s=found[what_if.MAX_ADDED_DELAY_S] if has_costs else 0.0,
        added_gap_s=found[what_if.ADDED_GAP_S] if has_costs else 0.0,
        num_slo_broken=int(found[what_if.NUM_SLO_BROKEN]) if has_costs else 0,
        e2e_p50_s=found[what_if.E2E_P50_S] if has_points else None,
        e2e_p90_s=found[what_if.E2E_P90_S] if has_points else None,
    )
