"""The default backend: the compiled kernel, which answers in tens of microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from predictor.backends.base import Answer, BacklogAnswer
from predictor.backends.kernel_run import KernelRunner, Rules, Run
from predictor.overlay import Population, SimulatedSequence
from predictor.remaining import expected_remaining, quantile_at
from predictor.simulator.kernel.cost import added_delays, count_broken, goals_of
from predictor.simulator.kernel.layout import (
    END,
    MAX_NUM_SEQS,
    NEVER,
    REMAINING,
    Floats,
)
from predictor.simulator.kernel.load import Chunks, load_population, newcomer_rows
from predictor.simulator.kernel.step_cost import chunk_s, mixed_step_s
from predictor.simulator.kernel.vidur_state import as_vidur
from predictor.simulator.kernel.work import OWN_PREEMPTIONS, PREEMPTIONS_MET
from predictor.step_time.base import StepTimeModel
from predictor.step_time.table import StepTable
from wire.snapshot import BatchInFlight, EngineLimits


class _Engine:
    """What questions about the same sequences share. Times count from the end of what is in flight.

    ``alone`` are the times without a newcomer, once they are known.
    """

    def __init__(self, population: Population, rules: Rules, table: StepTable) -> None:
        loaded = load_population(population)
        if rules == "sarathi":
            loaded = as_vidur(loaded, population)
        # A decode's context has one token more in Vidur.
        extra_kv = int(rules == "sarathi")
        self.key = _key(population)
        self.table = table
        self.arrays = loaded.engine
        self.size = len(loaded.engine.rows)
        self.goals: Floats = goals_of(population, loaded.rows_of)
        self.alone: Floats | None = None
        self.alone_longest_step_s = 0.0
        self._in_flight = [
            (started_at, _batch_s(table, chunks, extra_kv))
            for started_at, chunks in loaded.in_flight
        ]

    def start_s(self, now: float) -> float:
        """Seconds from ``now`` until the batches in flight have ended; a late one ends at once."""
        ends_s: float | None = None
        for started_at, duration_s in self._in_flight:
            began_s = started_at - now
            began_s = began_s if ends_s is None else max(began_s, ends_s)
            ends_s = max(0.0, began_s + duration_s)
        return ends_s or 0.0


class FastBackend:
    """Answers with the compiled kernel. One thread at a time."""

    name = "fast"
    is_quick = True

    def __init__(self, step_time: StepTimeModel, rules: Rules = "vllm") -> None:
        """``rules``: vLLM's scheduler, or ``sarathi`` for that of stock Vidur."""
        self._runner = KernelRunner(rules)
        self._step_time = step_time
        self._table: StepTable | None = None
        self._limits: EngineLimits | None = None
        self._engine: _Engine | None = None

    def use(self, step_time: StepTimeModel) -> None:
        """Take another step-time model from the next question on."""
        self._step_time = step_time
        self._table = self._engine = None

    def warm_up(self, limits: EngineLimits) -> None:
        """Tabulate the step times, and compile the kernel or load it from numba's cache."""
        running = SimulatedSequence("running", 1, 2, 1, remaining_tokens=2, num_blocks=1)
        batch = BatchInFlight(started_at=0.0, num_scheduled_tokens={"running": 1})
        free = max(0, limits.num_gpu_blocks - 1)
        population = Population(1.0, limits, free, (running,), (), (batch,))
        newcomer = SimulatedSequence("new", 1, 1, 0, 1, output_quantiles=((0.5, 1), (0.9, 2)))
        list(self.predict(population, [newcomer]))

    def predict(
        self,
        population: Population,
        newcomers: Sequence[SimulatedSequence],
        *,
        cost_to_others: bool = True,
    ) -> Iterator[Answer]:
        """See ``Backend``. Questions about the same sequences share the run without a newcomer."""
        engine = self._engine_of(population)
        start_s = engine.start_s(population.now)
        for newcomer in newcomers:
            if cost_to_others:
                yield self._answer_with_costs(engine, newcomer, start_s)
            else:
                yield self._answer(engine, newcomer, start_s)

    def drain(
        self,
        population: Population,
        backlog: Sequence[SimulatedSequence],
        max_num_seqs: int | None = None,
    ) -> BacklogAnswer:
        """See ``Backend``."""
        engine = self._engine_of(population)
        start_s = engine.start_s(population.now)
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
                _answer_of(run, engine.size + index, item.remaining_tokens, start_s)
                for index, item in enumerate(backlog)
            ),
            drain_s=start_s + last_s if last_s != NEVER else 0.0,
            added_delay_others_s=added_delays(run.times, alone)[0],
            num_slo_broken=count_broken(run.times, alone, engine.goals, start_s),
        )

    def _answer(self, engine: _Engine, newcomer: SimulatedSequence, start_s: float) -> Answer:
        """Its own latencies; one run times every length that it may have."""
        rows = newcomer_rows((newcomer,))
        lengths = sorted({tokens for _, tokens in newcomer.output_quantiles})
        if not lengths:
            run = self._runner.play(engine.arrays, rows, engine.table, until_all=False)
            return _answer_of(run, engine.size, newcomer.remaining_tokens, start_s)
        rows[0, REMAINING] = lengths[0]
        marks = np.array(lengths, dtype=np.int64)
        run = self._runner.play(engine.arrays, rows, engine.table, until_all=False, marks=marks)
        answer = _answer_of(run, engine.size, lengths[-1], start_s)
        ended_s = dict(zip(lengths, run.marked_s.tolist(), strict=True))
        return _over_lengths(answer, ended_s, newcomer, start_s)

    def _answer_with_costs(
        self, engine: _Engine, newcomer: SimulatedSequence, start_s: float
    ) -> Answer:
        """What it costs the others is taken for its expected length."""
        alone = self._alone(engine)
        rows = newcomer_rows((newcomer,))
        run = self._runner.play(engine.arrays, rows, engine.table, until_all=True)
        delay_s, max_delay_s = added_delays(run.times, alone)
        gap_s = max(0.0, run.longest_step_s - engine.alone_longest_step_s)
        num_broken = count_broken(run.times, alone, engine.goals, start_s)
        answer = _answer_of(run, engine.size, newcomer.remaining_tokens, start_s)
        if newcomer.output_quantiles:
            answer = self._answer(engine, newcomer, start_s)
        return replace(
            answer,
            added_delay_others_s=delay_s,
            max_added_delay_s=max_delay_s,
            added_gap_s=gap_s,
            num_slo_broken=num_broken,
        )

    def _alone(self, engine: _Engine) -> Floats:
        if engine.alone is None:
            nobody = newcomer_rows(())
            run = self._runner.play(engine.arrays, nobody, engine.table, until_all=True)
            engine.alone = run.times.copy()
            engine.alone_longest_step_s = run.longest_step_s
        return engine.alone

    def _engine_of(self, population: Population) -> _Engine:
        """The arrays of these sequences: those of the last question if they are the same."""
        engine, key = self._engine, _key(population)
        if engine is None or any(a is not b for a, b in zip(engine.key, key, strict=True)):
            engine = _Engine(population, self._runner.rules, self._table_for(population.limits))
            self._engine = engine
        return engine

    def _table_for(self, limits: EngineLimits) -> StepTable:
        if self._table is None or limits != self._limits:
            # Vidur's decodes ignore the budget.
            most = limits.max_num_batched_tokens + limits.max_num_seqs
            self._table = self._step_time.tabulate(most, limits.max_num_seqs)
            self._limits = limits
        return self._table


def _key(population: Population) -> tuple[object, ...]:
    """What the arrays depend on; sequences are compared as objects."""
    return (
        population.running,
        population.waiting,
        population.in_flight,
        population.limits,
        population.num_free_blocks,
    )


def _answer_of(run: Run, slot: int, num_tokens: int, start_s: float) -> Answer:
    queue_s, ttft_s, e2e_s = run.times[slot].tolist()
    counters = run.counters
    return Answer(
        queue_s=start_s + queue_s,
        ttft_s=start_s + ttft_s,
        tpot_s=(e2e_s - ttft_s) / max(1, num_tokens - 1),
        e2e_s=start_s + e2e_s,
        added_delay_others_s=0.0,
        num_preempted=counters.item(PREEMPTIONS_MET),
        num_own_preemptions=counters.item(OWN_PREEMPTIONS),
    )


def _over_lengths(
    answer: Answer, ended_s: Mapping[int, float], newcomer: SimulatedSequence, start_s: float
) -> Answer:
    """The answer for all lengths, of which each ends at ``ended_s``; given is that for the longest.

    Time after the first token grows with the length, so its quantiles are those of the length.
    """
    ttft_s, points = answer.ttft_s, newcomer.output_quantiles
    decode_s = [(p, start_s + ended_s[tokens] - ttft_s) for p, tokens in points]
    room = newcomer.max_remaining_tokens - points[-1][1]
    longest_s = decode_s[-1][1] + room * answer.tpot_s
    mean_s = expected_remaining(decode_s, 0.0, longest_s)
    mean_tokens = expected_remaining(points, 0.0, newcomer.max_remaining_tokens)
    return replace(
        answer,
        tpot_s=mean_s / max(1.0, mean_tokens - 1.0),
        e2e_s=ttft_s + mean_s,
        e2e_p50_s=ttft_s + min(quantile_at(decode_s, 0.5), longest_s),
        e2e_p90_s=ttft_s + min(quantile_at(decode_s, 0.9), longest_s),
    )


def _batch_s(table: StepTable, chunks: Chunks, extra_kv: int) -> float:
    """Seconds that a batch takes, whole."""
    decodes = [context + extra_kv for count, context in chunks if count == 1]
    prefills = [(count, context) for count, context in chunks if count > 1]
    return float(
        mixed_step_s(
            table,
            len(decodes),
            sum(decodes),
            len(prefills),
            sum(count for count, _ in prefills),
            sum(context for _, context in prefills),
            sum(count * (context + count / 2) for count, context in prefills),
            sum(chunk_s(table, count, context) for count, context in prefills),
        )
    )
