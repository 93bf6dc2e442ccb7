"""Answers questions: reads the engine's state, overlays what was sent, asks the backend.

The backend runs on one thread of its own, for it takes milliseconds and is not thread-safe. What
waits for it is bounded: a late prediction is worth nothing to a gateway that had to decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from predictor.backends.base import Answer, Backend
from predictor.errors import NotReady, Overloaded
from predictor.metrics import SidecarMetrics
from predictor.overlay import Population, SimulatedSequence, build_population
from predictor.questions import to_newcomer
from predictor.state.metrics import name_sequences
from predictor.state.select import State, StateSelector
from wire.prediction import PredictBatchRequest, PredictBatchResponse, Prediction, PredictRequest
from wire.snapshot import EngineLimits

NO_LATENCIES = Answer(
    queue_s=0.0, ttft_s=0.0, tpot_s=0.0, e2e_s=0.0, added_delay_others_s=0.0, num_preempted=0
)


class PredictionService:
    """One engine's answers. ``clock`` gives UNIX seconds, ``timer`` monotonic ones."""

    def __init__(
        self,
        selector: StateSelector,
        load_backend: Callable[[], Backend],
        metrics: SidecarMetrics,
        max_waiting: int,
        default_output_tokens: float,
        clock: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        """``load_backend`` may take seconds; it is called by ``warm_up``, on the worker thread."""
        self._selector = selector
        self._load_backend = load_backend
        self._metrics = metrics
        self._max_waiting = max_waiting
        self._default_output_tokens = default_output_tokens
        self._clock = clock
        self._timer = timer
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="what-if")
        self._backend: Backend | None = None
        self._num_waiting = 0
        metrics.waiting_calls.set_function(lambda: self._num_waiting)

    async def warm_up(self, limits: EngineLimits) -> None:
        """Load the backend and prepare it for an engine with these limits."""

        def load() -> Backend:
            backend = self._load_backend()
            backend.warm_up(limits)
            return backend

        self._backend = await asyncio.get_running_loop().run_in_executor(self._worker, load)

    async def read_state(self) -> State:
        """The engine's state; raises StateUnavailable."""
        return await self._selector.read()

    async def check_ready(self) -> State:
        """The state that the next question would start from.

        Raises:
            NotReady: the backend is still being loaded.
            StateUnavailable: no state source works.
        """
        if self._backend is None:
            raise NotReady("the backend is still being loaded")
        return await self.read_state()

    async def answer(
        self, batch: PredictBatchRequest, deadline_s: float | None = None
    ) -> PredictBatchResponse:
        """Answer a batch of questions; None is no deadline, else seconds from now.

        Raises:
            NotReady, StateUnavailable, Overloaded, SimulationFailed: see ``predictor.errors``.
        """
        began = self._timer()
        state = await self.check_ready() if batch.simulate else await self.read_state()
        population = self._population(state, batch)
        answers = [NO_LATENCIES] * len(batch.requests)
        backend = "none"
        if batch.simulate and batch.requests:
            assert self._backend is not None
            backend = self._backend.name
            newcomers = [to_newcomer(question, population.limits) for question in batch.requests]
            until = None if deadline_s is None else began + deadline_s
            answers = await self._simulate(self._backend, population, newcomers, batch, until)
        took_ms = (self._timer() - began) * 1e3
        self._metrics.count_answers(len(answers), state.source, backend, state.age_ms, took_ms)
        return PredictBatchResponse(
            predictions=[
                _prediction(question, answer, population, state, backend, took_ms)
                for question, answer in zip(batch.requests, answers, strict=True)
            ]
        )

    async def close(self) -> None:
        """Let the running what-if end and close the state sources."""
        self._worker.shutdown(wait=True, cancel_futures=True)
        await self._selector.close()

    def _population(self, state: State, batch: PredictBatchRequest) -> Population:
        snapshot = state.snapshot
        if state.source == "metrics":
            snapshot = name_sequences(snapshot, batch.sent)
        return build_population(snapshot, batch.sent, self._clock(), self._default_output_tokens)

    async def _simulate(
        self,
        backend: Backend,
        population: Population,
        newcomers: list[SimulatedSequence],
        batch: PredictBatchRequest,
        until: float | None,
    ) -> list[Answer]:
        """On the worker thread, unless too much waits there or it comes too late."""
        if self._num_waiting >= self._max_waiting:
            raise Overloaded(f"{self._num_waiting} questions wait already; ask again later")

        def simulate() -> list[Answer]:
            answers = backend.predict(population, newcomers, cost_to_others=batch.cost_to_others)
            return [self._next_in_time(answers, until) for _ in newcomers]

        self._num_waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._worker, simulate)
        # Counted until it has ended: a client that gives up does not stop a running what-if.
        future.add_done_callback(self._on_done)
        return await asyncio.shield(future)

    def _next_in_time(self, answers: Iterator[Answer], until: float | None) -> Answer:
        """The next answer, unless nobody waits for it any more."""
        if until is not None and self._timer() >= until:
            raise Overloaded("the deadline passed before the question's turn")
        return next(answers)

    def _on_done(self, future: asyncio.Future[list[Answer]]) -> None:
        self._num_waiting -= 1
        if not future.cancelled():
            future.exception()  # marks it as seen when nobody waits any more


def _prediction(
    question: PredictRequest,
    answer: Answer,
    population: Population,
    state: State,
    backend: str,
    took_ms: float,
) -> Prediction:
    return Prediction(
        request_id=question.request_id,
        queue_ms=answer.queue_s * 1e3,
        ttft_ms=answer.ttft_s * 1e3,
        tpot_ms=answer.tpot_s * 1e3,
        e2e_ms=answer.e2e_s * 1e3,
        added_delay_others_ms=answer.added_delay_others_s * 1e3,
        kv_blocks_free=population.num_free_blocks,
        kv_blocks_total=population.limits.num_gpu_blocks,
        kv_blocks_wanted=population.kv_blocks_wanted,
        num_running=len(population.running),
        num_waiting=len(population.waiting),
        num_preempted=answer.num_preempted,
        num_unprocessed_tokens=population.num_unprocessed_tokens,
        state_source=state.source,
        state_age_ms=state.age_ms,
        backend=backend,
        time_to_predict_ms=took_ms,
    )
