"""The default backend: the compiled kernel, which answers in tens of microseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from predictor.backends.base import Answer, BacklogAnswer
from predictor.backends.kernel_answers import KernelAnswers, LoadedEngine
from predictor.backends.kernel_run import Rules
from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.kernel.cost import goals_of
from predictor.simulator.kernel.load import Chunks, load_population
from predictor.simulator.kernel.step_cost import chunk_s, mixed_step_s
from predictor.simulator.kernel.vidur_state import as_vidur
from predictor.simulator.kernel.what_if import load_newcomer
from predictor.step_time.base import StepTimeModel
from predictor.step_time.table import StepTable
from wire.snapshot import BatchInFlight, EngineLimits


class _Engine:
    """A population as the kernel reads it, and the batches that must end before."""

    def __init__(self, population: Population, rules: Rules, table: StepTable) -> None:
        loaded = load_population(population)
        if rules == "sarathi":
            loaded = as_vidur(loaded, population)
        # A decode's context has one token more in Vidur.
        extra_kv = int(rules == "sarathi")
        self.key = _key(population)
        self.loaded = LoadedEngine(loaded.engine, goals_of(population, loaded.rows_of), table)
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
        self._rules: Rules = rules
        self._answers = KernelAnswers(rules)
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
            yield self._answers.answer(
                engine.loaded, load_newcomer(newcomer), start_s, cost_to_others=cost_to_others
            )

    def drain(
        self,
        population: Population,
        backlog: Sequence[SimulatedSequence],
        max_num_seqs: int | None = None,
    ) -> BacklogAnswer:
        """See ``Backend``."""
        engine = self._engine_of(population)
        return self._answers.drain(
            engine.loaded, backlog, engine.start_s(population.now), max_num_seqs
        )

    def _engine_of(self, population: Population) -> _Engine:
        """The arrays of these sequences: those of the last question if they are the same."""
        engine, key = self._engine, _key(population)
        if engine is None or any(a is not b for a, b in zip(engine.key, key, strict=True)):
            engine = _Engine(population, self._rules, self._table_for(population.limits))
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
