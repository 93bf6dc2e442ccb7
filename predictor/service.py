"""Answers questions: reads the engine's state, lays what was sent over it, asks the backend."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from predictor.answers import Circumstances, backlog_prediction_of, prediction_of
from predictor.backends.base import NO_LATENCIES, Answer, Backend
from predictor.backends.fast import FastBackend
from predictor.calibration import Calibration
from predictor.errors import NotReady
from predictor.metrics import SidecarMetrics
from predictor.populations import Populations, Standing
from predictor.questions import to_newcomer
from predictor.state.select import State, StateSelector
from predictor.step_time.base import StepTimeModel
from predictor.turns import Turns
from wire.prediction import (
    BacklogPrediction,
    BacklogRequest,
    PredictBatchRequest,
    PredictBatchResponse,
)
from wire.snapshot import EngineLimits

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
        calibration: Calibration | None,
        timer: Callable[[], float],
    ) -> None:
        """``load_backend`` may take seconds; ``warm_up`` calls it. ``timer`` is monotonic.

        Without a calibration latencies are answered as the backend gives them.
        """
        self._selector = selector
        self._load_backend = load_backend
        self._metrics = metrics
        self._populations = populations
        self._turns = turns
        self._calibration = calibration
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

    async def use_step_time(self, step_time: StepTimeModel) -> None:
        """Let later what-ifs take their step times from this model; Vidur keeps to its tables."""
        backend = self._loaded_backend()
        if isinstance(backend, FastBackend):
            await self._turns.load(partial(backend.use, step_time))

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
        self._metrics.count_answers(len(answers), state, name, took_ms)
        circumstances = _circumstances(standing, state)
        predictions = [
            prediction_of(question.request_id, answer, circumstances, name, took_ms)
            for question, answer in zip(batch.requests, answers, strict=True)
        ]
        if self._calibration is not None:
            # Only now that nothing can fail: of a failed call the asker tells the outcomes again.
            self._calibration.observe(batch.ended)
            predictions = [self._calibration.calibrate(raw) for raw in predictions]
        return PredictBatchResponse(predictions=predictions)

    async def drain(
        self, backlog: BacklogRequest, deadline_s: float | None = None
    ) -> BacklogPrediction:
        """How the engine would work off a backlog. Raises like ``answer``."""
        began = self._timer()
        backend = self._loaded_backend()
        state = await self._selector.read(backlog.sent)
        standing = self._populations.find(state, backlog.sent or ())
        population = standing.population
        newcomers = [to_newcomer(request, population.limits) for request in backlog.requests]
        until = None if deadline_s is None else began + deadline_s
        play = partial(backend.drain, population, newcomers, backlog.max_num_seqs)
        # Played to its very end, which is never quick.
        (answer,) = await self._turns.run([play], is_quick=False, until=until)
        took_ms = (self._timer() - began) * 1e3
        self._metrics.count_answers(len(newcomers), state, backend.name, took_ms)
        return backlog_prediction_of(
            backlog.requests, answer, _circumstances(standing, state), took_ms
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


def _circumstances(standing: Standing, state: State) -> Circumstances:
    population = standing.population
    return Circumstances(
        kv_blocks_free=population.num_free_blocks,
        kv_blocks_total=population.limits.num_gpu_blocks,
        kv_blocks_wanted=standing.kv_blocks_wanted,
        max_num_seqs=population.limits.max_num_seqs,
        num_running=len(population.running),
        num_waiting=len(population.waiting),
        num_unprocessed_tokens=standing.num_unprocessed_tokens,
        state_source=state.source,
        state_age_ms=state.age_ms,
        state_is_stale=state.is_stale,
    )
