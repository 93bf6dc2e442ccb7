"""Predicts every request of a recorded run again, with what a sidecar had learnt by then."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.fidelity.recording import Run, SentRecord, steps_before
from benchmarks.fidelity.with_arrivals import Arrival, replay
from global_scheduler.lengths import RunningMeanLengths
from predictor.backends.fast import FastBackend
from predictor.calibration import Calibration
from predictor.overlay import Population, build_population, newcomer, try_match
from predictor.step_time.base import StepTimeModel
from predictor.step_time.online import OnlineStepTime
from wire.model_config import ModelConfig
from wire.prediction import EndedRequest, Prediction, SentRequest
from wire.snapshot import EngineSnapshot, SequenceState

MODEL_NAME = "served"
"""There is one, whatever it is called."""


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds, as a client sees them."""

    ttft_ms: float
    tpot_ms: float | None
    """None where there is no second token."""
    e2e_ms: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """A request and all that was predicted of it."""

    request: SentRecord
    predicted: dict[str, Latencies]
    """By what was known."""


class Unit:
    """What one sidecar has learnt of its unit up to some moment."""

    def __init__(self, run: Run, unit: str, prior: StepTimeModel, model: ModelConfig) -> None:
        self._run = run
        self._unit = unit
        self._step_time = OnlineStepTime(prior, model)
        self._backend = FastBackend(prior)
        self._now = 0.0
        self._calibrations: dict[str, Calibration] = {}

    def learn_until(self, now: float) -> None:
        """Take in the steps and requests that have ended since the last call."""
        steps = self._run.steps[self._unit]
        if self._step_time.observe(steps_before(steps, now)):
            self._backend.use(self._step_time.model())
        ended = [
            EndedRequest(
                request_id=request.request_id,
                ttft_ms=request.ttft_ms,
                e2e_ms=request.e2e_ms,
                num_output_tokens=request.num_output_tokens,
            )
            for request in self._run.requests
            if request.unit == self._unit and self._now < request.ended_at <= now
        ]
        for calibration in self._calibrations.values():
            calibration.observe(ended)
        self._now = now

    @property
    def step_time(self) -> StepTimeModel:
        """What has been learnt of steps."""
        return self._step_time.model()

    def predict(self, request: SentRecord, lengths: Mapping[str, float]) -> Prediction:
        """By the compiled what-if. ``lengths`` are the expected ones, by request id."""
        now, snapshot = request.sent_at, request.snapshot
        sent = [_to_sent(other, lengths, now) for other in self._run.others_in_flight(request)]
        population = build_population(snapshot, sent, now)
        one = newcomer(
            request.request_id,
            request.num_prompt_tokens,
            lengths[request.request_id],
            snapshot.limits,
            request.max_tokens,
        )
        [answer] = self._backend.predict(population, [one], cost_to_others=False)
        latencies = Latencies(answer.ttft_s * 1e3, answer.tpot_s * 1e3, answer.e2e_s * 1e3)
        return _to_prediction(request, latencies, population)

    def calibrate(self, kind: str, raw: Prediction) -> Prediction:
        """Corrected by what was learnt from earlier predictions of this kind."""
        calibration = self._calibrations.setdefault(kind, Calibration(time.monotonic))
        return calibration.calibrate(raw)

    def replay(self, request: SentRecord) -> Latencies:
        """With the true lengths and all arrivals, the later ones included."""
        run, snapshot = self._run, request.snapshot
        around = [*run.others_in_flight(request), request, *run.arrivals_during(request)]
        by_id = {other.request_id: _to_sent(other, {}, request.sent_at) for other in around}
        known = _engine_ids(snapshot, by_id)
        lengths = {other.request_id: other.num_output_tokens for other in around}
        times = replay(
            snapshot,
            lengths | {engine_id: lengths[name] for engine_id, name in known.items()},
            [_to_arrival(other) for other in around if other.request_id not in known.values()],
            request.request_id,
            self.step_time,
        )
        ttft_ms = (times.first_token_at - request.sent_at) * 1e3
        e2e_ms = (times.ended_at - request.sent_at) * 1e3
        return Latencies(ttft_ms, _tpot_ms(ttft_ms, e2e_ms, request.num_output_tokens), e2e_ms)


def predict_run(
    run: Run, prior: StepTimeModel, model: ModelConfig, on_done: Callable[[], object]
) -> list[Outcome]:
    """Predict in the order of sending, knowing what was known then, and more.

    ``true_lengths`` and ``estimated`` are what a sidecar answers if it is told the true lengths of
    all answers, or the gateway's estimates; ``..._uncalibrated`` the same before calibration;
    ``true_lengths_and_arrivals`` knows the requests that come later, too.
    """
    units = {unit: Unit(run, unit, prior, model) for unit in run.steps}
    true_lengths: dict[str, float] = {
        request.request_id: request.num_output_tokens for request in run.requests
    }
    estimates: dict[str, float] = {}
    outcomes = []
    for request in run.requests:
        estimates[request.request_id] = _estimate(run, request)
        unit = units[request.unit]
        unit.learn_until(request.sent_at)
        predicted = {"true_lengths_and_arrivals": unit.replay(request)}
        for kind, lengths in (("true_lengths", true_lengths), ("estimated", estimates)):
            raw = unit.predict(request, lengths)
            predicted[f"{kind}_uncalibrated"] = _latencies(raw)
            predicted[kind] = _latencies(unit.calibrate(kind, raw))
        outcomes.append(Outcome(request, predicted))
        on_done()
    return outcomes


def _estimate(run: Run, request: SentRecord) -> float:
    """The gateway's own estimate at the moment of sending."""
    lengths = RunningMeanLengths()
    ended = [other for other in run.requests if other.ended_at <= request.sent_at]
    for other in sorted(ended, key=lambda other: other.ended_at):
        lengths.observe(MODEL_NAME, other.num_output_tokens)
    return lengths.estimate(MODEL_NAME, request.max_tokens).mean_tokens


def _to_sent(request: SentRecord, lengths: Mapping[str, float], now: float) -> SentRequest:
    """What a gateway tells of a request in flight."""
    first_age_ms = (now - request.sent_at) * 1e3 - request.ttft_ms
    return SentRequest(
        request_id=request.request_id,
        num_prompt_tokens=request.num_prompt_tokens,
        expected_output_tokens=lengths.get(request.request_id, 0.0),
        sent_age_ms=(now - request.sent_at) * 1e3,
        has_first_token=first_age_ms >= 0,
        max_tokens=request.max_tokens,
        first_token_age_ms=first_age_ms if first_age_ms >= 0 else None,
    )


def _to_arrival(request: SentRecord) -> Arrival:
    state = SequenceState(
        request_id=request.request_id,
        num_prompt_tokens=request.num_prompt_tokens,
        num_tokens=request.num_prompt_tokens,
        max_tokens=request.max_tokens,
        arrival_time=request.sent_at,
    )
    return Arrival(request.sent_at, state)


def _engine_ids(snapshot: EngineSnapshot, sent: Mapping[str, SentRequest]) -> dict[str, str]:
    """Request ids by the engine's."""
    found = {}
    for sequence in [*snapshot.running, *snapshot.waiting]:
        request = try_match(sequence.request_id, sent)
        if request is not None:
            found[sequence.request_id] = request.request_id
    return found


def _to_prediction(request: SentRecord, latencies: Latencies, population: Population) -> Prediction:
    return Prediction(
        request_id=request.request_id,
        queue_ms=0.0,
        ttft_ms=latencies.ttft_ms,
        tpot_ms=latencies.tpot_ms or 0.0,
        e2e_ms=latencies.e2e_ms,
        added_delay_others_ms=0.0,
        kv_blocks_free=population.num_free_blocks,
        kv_blocks_total=population.limits.num_gpu_blocks,
        kv_blocks_wanted=population.kv_blocks_wanted,
        num_running=len(population.running),
        num_waiting=len(population.waiting),
        num_preempted=0,
        num_unprocessed_tokens=population.num_unprocessed_tokens,
        state_source="plugin",
        state_age_ms=0.0,
        backend=FastBackend.name,
        time_to_predict_ms=0.0,
    )


def _latencies(prediction: Prediction) -> Latencies:
    return Latencies(prediction.ttft_ms, prediction.tpot_ms, prediction.e2e_ms)


def _tpot_ms(ttft_ms: float, e2e_ms: float, num_output_tokens: int) -> float | None:
    return (e2e_ms - ttft_ms) / (num_output_tokens - 1) if num_output_tokens > 1 else None
