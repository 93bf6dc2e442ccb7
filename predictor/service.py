"""Answers questions: reads the engine's state, lays what was sent over it, asks the backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from predictor.backends.base import Answer, Backend
from predictor.errors import NotReady
from predictor.metrics import SidecarMetrics
from predictor.populations import Populations, Standing
from predictor.questions import to_newcomer
from predictor.state.select import State, StateSelector
from predictor.turns import Turns
from wire.prediction import PredictBatchRequest, PredictBatchResponse, Prediction, PredictRequest
from wire.snapshot import EngineLimits

NO_LATENCIES = Answer(
    queue_s=0.0, ttft_s=0.0, tpot_s=0.0, e2e_s=0.0, added_delay_others_s=0.0, num_preempted=0
)
MAX_QUICK_SEQS = 1024
"""Even a compiled what-if of more sequences takes milliseconds: too long for the event loop."""


class PredictionService:
    """One engine's answers."""

    def __init__(
        self,
        selector: StateSelector,
        load_backend: Callable[[], Backend],
        metrics: SidecarMetrics,
        populations: Populations,
        turns: Turns,
        timer: Callable[[], float],
    ) -> None:
        """``load_backend`` may take seconds; ``warm_up`` calls it. ``timer`` is monotonic."""
        self._selector = selector
        self._load_backend = load_backend
        self._metrics = metrics
        self._populations = populations
        self._turns = turns
        self._timer = timer
        self._backend: Backend | None = None
        metrics.waiting_calls.set_function(lambda: turns.num_waiting)

    async def warm_up(self, limits: EngineLimits) -> None:
        """Load the backend and prepare it for an engine with these limits."""

        def load() -> Backend:
            backend = self._load_backend()
            backend.warm_up(limits)
            return backend

        self._backend = await self._turns.load(load)

    async def read_state(self) -> State:
        """The engine's state; raises StateUnavailable."""
        return await self._selector.read()

    async def check_ready(self) -> State:
        """The state that the next question would start from.

        Raises:
            NotReady: the backend is still being loaded.
            StateUnavailable: no state source works.
        """
        self._loaded_backend()
        return await self.read_state()

    async def answer(
        self, batch: PredictBatchRequest, deadline_s: float | None = None
    ) -> PredictBatchResponse:
        """Answer a batch of questions; None is no deadline, else seconds from now.

        Raises:
            InvalidQuestion, NotReady, StateUnavailable, Overloaded, SimulationFailed: see
                ``predictor.errors``.
        """
        began = self._timer()
        backend = self._loaded_backend() if batch.simulate else None
        state = await self._selector.read(batch.sent)
        standing = self._populations.find(state, batch.sent or ())
        answers = [NO_LATENCIES] * len(batch.requests)
        if backend is not None and batch.requests:
            until = None if deadline_s is None else began + deadline_s
            answers = await self._simulate(backend, standing, batch, until)
        name = "none" if backend is None else backend.name
        took_ms = (self._timer() - began) * 1e3
        self._metrics.count_answers(len(answers), state.source, name, state.age_ms, took_ms)
        return PredictBatchResponse(
            predictions=[
                _prediction(question, answer, standing, state, name, took_ms)
                for question, answer in zip(batch.requests, answers, strict=True)
            ]
        )

    async def close(self) -> None:
        """Let the running what-if end and close the state sources."""
        self._turns.close()
        await self._selector.close()

    async def _simulate(
        self,
        backend: Backend,
        standing: Standing,
        batch: PredictBatchRequest,
        until: float | None,
    ) -> list[Answer]:
        population = standing.population
        newcomers = [to_newcomer(question, population.limits) for question in batch.requests]
        answers = backend.predict(population, newcomers, cost_to_others=batch.cost_to_others)
        num_seqs = len(population.running) + len(population.waiting)
        is_quick = backend.is_quick and num_seqs <= MAX_QUICK_SEQS
        steps = [partial(next, answers)] * len(newcomers)
        return await self._turns.run(steps, is_quick=is_quick, until=until)

    def _loaded_backend(self) -> Backend:
        if self._backend is None:
            raise NotReady("the backend is still being loaded")
        return self._backend


def _prediction(
    question: PredictRequest,
    answer: Answer,
    standing: Standing,
    state: State,
    backend: str,
    took_ms: float,
) -> Prediction:
    population = standing.population
    return Prediction(
        request_id=question.request_id,
        queue_ms=answer.queue_s * 1e3,
        ttft_ms=answer.ttft_s * 1e3,
        tpot_ms=answer.tpot_s * 1e3,
        e2e_ms=answer.e2e_s * 1e3,
        added_delay_others_ms=answer.added_delay_others_s * 1e3,
        kv_blocks_free=population.num_free_blocks,
        kv_blocks_total=population.limits.num_gpu_blocks,
        kv_blocks_wanted=standing.kv_blocks_wanted,
        num_running=len(population.running),
        num_waiting=len(population.waiting),
        num_preempted=answer.num_preempted,
        num_unprocessed_tokens=standing.num_unprocessed_tokens,
        state_source=state.source,
        state_age_ms=state.age_ms,
        state_is_stale=state.is_stale,
        backend=backend,
        time_to_predict_ms=took_ms,
    )
