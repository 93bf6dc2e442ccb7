"""A unit's sidecar in the twin: the live what-if, on the engine's arrays.

It sees what a live one sees: the state that the engine exported when its batch in flight started,
and what the gateway has sent, with the gateway's beliefs of output lengths and step times of its
own. It never sees a true length. Snapshots would say the same, and cost far more to build.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from exp.twin.engines import Engines
from exp.twin.kernel import beliefs as columns
from exp.twin.kernel import layout
from exp.twin.kernel import sequences as figures
from exp.twin.kernel.beliefs import enlarged, make_beliefs
from exp.twin.kernel.population import lay_out
from exp.twin.kernel.sequences import make_population
from predictor.answers import Circumstances, backlog_prediction_of, prediction_of
from predictor.backends.base import NO_LATENCIES
from predictor.backends.kernel_answers import KernelAnswers, LoadedEngine
from predictor.calibration import Calibration
from predictor.questions import to_newcomer
from predictor.remaining import length_points
from predictor.simulator.kernel.compiled import machine_code
from predictor.simulator.kernel.layout import EngineArrays
from predictor.simulator.kernel.what_if import Newcomer, load_newcomer
from predictor.state.select import STALE_AFTER_S
from predictor.step_time.table import StepTable
from wire.prediction import (
    BacklogPrediction,
    BacklogRequest,
    EndedRequest,
    Prediction,
    PredictRequest,
    SentRequest,
)
from wire.snapshot import EngineLimits


class LoadedQuestions:
    """Questions as the kernel reads them: the same for units with the same limits and as much of
    the prompt in their caches."""

    def __init__(self) -> None:
        self._newcomers: list[tuple[str, int, EngineLimits, Newcomer]] = []

    def newcomer(self, question: PredictRequest, limits: EngineLimits) -> Newcomer:
        """What ``question`` asks about; nothing but its cached tokens may change meanwhile."""
        for request_id, num_cached_tokens, known_limits, newcomer in self._newcomers:
            if (
                num_cached_tokens == question.num_cached_tokens
                and request_id == question.request_id
                and known_limits == limits
            ):
                return newcomer
        newcomer = load_newcomer(to_newcomer(question, limits))
        self._newcomers.append((question.request_id, question.num_cached_tokens, limits, newcomer))
        return newcomer


class TwinSidecar:
    """Answers questions about one engine at the engines' present."""

    def __init__(
        self,
        engines: Engines,
        unit: int,
        believed_table: StepTable,
        *,
        state_interval_s: float = 0.0,
        is_calibrated: bool = False,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        """``state_interval_s``: the least age at which exported state is replaced; with 0 it is
        always that of the last step. ``timer`` says how long predictions take."""
        self._engines = engines
        self._unit = unit
        self._table = believed_table
        self._timer = timer
        self._limits = engines.specs[unit].limits
        self._answers = KernelAnswers("vllm")
        self._calibration = Calibration(lambda: engines.now_s) if is_calibrated else None
        engines.fleet.clocks[unit, layout.EXPORT_EVERY_S] = state_interval_s
        self._beliefs = make_beliefs()
        self._num_beliefs = self._changes = 0
        self._population = make_population(engines.fleet.limits[unit], 1)
        self._loaded_for: tuple[int, int, float] | None = None
        self._loaded: LoadedEngine
        self._circumstances: Circumstances
        self._batch_ends_s = 0.0
        self._lay_out_quickly: Callable[..., float] | None = None

    def sent(self, index: int, request: SentRequest) -> None:
        """The gateway has sent the request of this index, ``sent_age_ms`` before now."""
        points = length_points(request.quantiles) if request.quantiles else []
        self._reserve(index, len(points))
        beliefs, place = self._beliefs, self._num_beliefs
        row = int(beliefs.order[place])
        sent_s = self._engines.now_s - request.sent_age_ms / 1e3
        first_ms, slo = request.first_token_age_ms, request.slo
        beliefs.facts[row] = (
            *(index, request.num_prompt_tokens),
            *(layout.NONE if request.max_tokens is None else request.max_tokens, request.priority),
            *(request.num_cached_tokens, len(points), request.has_first_token, 0),
        )
        beliefs.numbers[row] = (
            *(request.expected_output_tokens, sent_s),
            math.nan if first_ms is None else self._engines.now_s - first_ms / 1e3,
            math.inf if slo is None or slo.ttft_ms is None else slo.ttft_ms / 1e3,
            math.inf if slo is None or slo.tpot_ms is None else slo.tpot_ms / 1e3,
        )
        if points:
            beliefs.points[row, : len(points)] = points
        while place > 0 and beliefs.numbers[beliefs.order[place - 1], columns.SENT_S] > sent_s:
            beliefs.order[place] = beliefs.order[place - 1]
            place -= 1
        beliefs.order[place] = row
        beliefs.row_of[index] = row
        self._num_beliefs += 1
        self._changes += 1

    def first_token(self, index: int) -> None:
        """The gateway sees a request's first token."""
        row = int(self._beliefs.row_of[index])
        if row != layout.NONE:
            self._beliefs.facts[row, columns.HAS_FIRST_TOKEN] = 1
            self._beliefs.numbers[row, columns.FIRST_TOKEN_S] = self._engines.now_s
            self._changes += 1

    def ended(self, index: int) -> None:
        """The gateway sees that a request is over; one that it has not sent is ignored."""
        beliefs = self._beliefs
        row = int(beliefs.row_of[index]) if index < len(beliefs.row_of) else layout.NONE
        if row == layout.NONE:
            return
        order = beliefs.order[: self._num_beliefs]
        place = int(np.flatnonzero(order == row)[0])
        order[place:-1] = order[place + 1 :].copy()
        order[-1] = row
        beliefs.row_of[index] = layout.NONE
        self._num_beliefs -= 1
        self._changes += 1

    def observe(self, ended: Sequence[EndedRequest]) -> None:
        """What requests have met; the calibration, if there is one, learns from it."""
        if self._calibration is not None:
            self._calibration.observe(ended)

    def predict(
        self,
        questions: Sequence[PredictRequest],
        *,
        simulate: bool,
        cost_to_others: bool,
        loaded: LoadedQuestions | None = None,
    ) -> list[Prediction]:
        """Answer each as if it were asked alone.

        ``loaded`` is for those who put the same questions to many units.

        Raises:
            SimulationFailed: the kernel cannot play this engine to an end.
        """
        began_s = self._timer()
        circumstances = self._look()
        answers = [NO_LATENCIES] * len(questions)
        if simulate:
            known = LoadedQuestions() if loaded is None else loaded
            answers = [
                self._answers.answer(
                    self._loaded,
                    known.newcomer(question, self._limits),
                    self._start_s,
                    cost_to_others=cost_to_others,
                )
                for question in questions
            ]
        name = "fast" if simulate else "none"
        took_ms = (self._timer() - began_s) * 1e3
        predictions = [
            prediction_of(question.request_id, answer, circumstances, name, took_ms)
            for question, answer in zip(questions, answers, strict=True)
        ]
        if self._calibration is None:
            return predictions
        return [self._calibration.calibrate(raw) for raw in predictions]

    def freeness(self) -> float:
        """Llumnix's: free blocks, less those that waiting prompts want, for each request."""
        seen = self._look()
        free = seen.kv_blocks_free - seen.kv_blocks_wanted
        return free / max(1, seen.num_running + seen.num_waiting)

    def drain(self, backlog: BacklogRequest) -> BacklogPrediction:
        """How the unit would work off a backlog, whose own ``sent`` is not looked at.

        Raises:
            SimulationFailed: as ``predict``.
        """
        began_s = self._timer()
        circumstances = self._look()
        newcomers = [to_newcomer(request, self._limits) for request in backlog.requests]
        answer = self._answers.drain(self._loaded, newcomers, self._start_s, backlog.max_num_seqs)
        took_ms = (self._timer() - began_s) * 1e3
        return backlog_prediction_of(backlog.requests, answer, circumstances, took_ms)

    @property
    def _start_s(self) -> float:
        """Seconds until the batch in flight has ended; a late one ends at once."""
        return max(0.0, self._batch_ends_s - self._engines.now_s)

    def _look(self) -> Circumstances:
        """Lay out what is known now, unless that has been done."""
        now_s = self._engines.now_s
        changes = int(self._engines.fleet.engines[self._unit, layout.CHANGES])
        key = (changes, self._changes, now_s)
        if key != self._loaded_for:
            self._lay_out(now_s)
            self._loaded_for = key
        return self._circumstances

    def _lay_out(self, now_s: float) -> None:
        fleet, unit = self._engines.fleet, self._unit
        most = fleet.exports.shape[1] + self._num_beliefs
        if most > len(self._population.rows):
            self._population = make_population(fleet.limits[unit], 2 * most)
        population = self._population
        known = (fleet, unit, self._beliefs, self._num_beliefs, self._table, now_s, population)
        if self._lay_out_quickly is None:
            self._lay_out_quickly = machine_code(lay_out, *known)
        duration_s = self._lay_out_quickly(*known)
        found = population.figures.tolist()
        size = found[figures.NUM_ROWS]
        arrays = EngineArrays(
            population.limits,
            population.rows[:size],
            found[figures.ROWS_RUNNING],
            found[figures.ROWS_FREE],
        )
        goals = population.goals[: size if found[figures.HAS_GOALS] else 0]
        self._loaded = LoadedEngine(arrays, goals, self._table)
        told_s = float(fleet.clocks[unit, layout.EXPORT_STARTED_S])
        self._batch_ends_s = told_s + duration_s if duration_s else 0.0
        num_running, num_waiting = found[figures.SEQS_RUNNING], found[figures.SEQS_WAITING]
        self._circumstances = Circumstances(
            kv_blocks_free=int(fleet.export_heads[unit, layout.EXPORT_FREE]),
            kv_blocks_total=self._limits.num_gpu_blocks,
            kv_blocks_wanted=found[figures.BLOCKS_WANTED],
            max_num_seqs=self._limits.max_num_seqs,
            num_running=num_running,
            num_waiting=num_waiting,
            num_unprocessed_tokens=found[figures.UNPROCESSED_TOKENS],
            state_source="plugin",
            state_age_ms=(now_s - told_s) * 1e3,
            state_is_stale=num_running + num_waiting > 0 and now_s - told_s > STALE_AFTER_S,
        )

    def _reserve(self, index: int, num_points: int) -> None:
        beliefs = self._beliefs
        if (
            index >= len(beliefs.row_of)
            or self._num_beliefs == len(beliefs.order)
            or num_points > beliefs.points.shape[1]
        ):
            self._beliefs = enlarged(beliefs, self._num_beliefs + 1, num_points, index + 1)
