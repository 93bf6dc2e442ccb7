"""The twin's sidecars answer what live ones would."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from exp.twin.engines import END, FIRST_TOKEN, EngineRequest, Engines, EngineSpec
from exp.twin.sidecar import TwinSidecar
from predictor.backends.base import Answer
from predictor.backends.fast import FastBackend
from predictor.questions import to_newcomer
from tests.twin.live_path import answers_of, population_of
from tests.twin.reference_engine import STEP_TIME, random_limits
from tests.twin.test_engines import LIMITS, TABLE, make_engines, play, request
from wire.prediction import (
    BacklogRequest,
    EndedRequest,
    Prediction,
    PredictRequest,
    SentRequest,
    Slo,
)

CLOSE = 1e-9
"""Seconds."""


class Unit:
    """A random engine in the middle of its life, its sidecar and what its gateway has sent."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        limits = random_limits(self.rng)
        table = STEP_TIME.tabulate(
            limits.max_num_batched_tokens + limits.max_num_seqs, limits.max_num_seqs
        )
        self.engines = Engines([EngineSpec(limits, table, 0.3)] * 2, seed=seed)
        self.sidecar = TwinSidecar(self.engines, 1, table)
        self.backend = FastBackend(STEP_TIME)
        self.limits = limits
        self.sent: dict[int, tuple[SentRequest, float]] = {}
        self._first_s: dict[int, float] = {}
        self.num_requests = 0

    def send(self) -> None:
        """A request that reaches the engine now, or is still on its way to it."""
        rng, index = self.rng, self.num_requests
        self.num_requests += 1
        prompt, length = rng.randint(1, 130), rng.randint(1, 80)
        told = SentRequest(
            request_id=str(index),
            num_prompt_tokens=prompt,
            expected_output_tokens=rng.uniform(1, 80),
            quantiles=self._quantiles(),
            max_tokens=rng.choice([None, 60]),
            priority=rng.randint(0, 2),
            num_cached_tokens=rng.choice([0, 40]),
            slo=rng.choice([None, Slo(ttft_ms=rng.uniform(50, 1500), tpot_ms=rng.uniform(15, 60))]),
        )
        self.sent[index] = told, self.engines.now_s
        self.sidecar.sent(index, told)
        if rng.random() < 0.9:
            hashes: NDArray[np.int64] = np.arange(rng.randint(0, 8)) + 100 * rng.randint(0, 1)
            most = told.max_tokens or 1000
            self.engines.add(1, EngineRequest(index, prompt, length, most, told.priority, hashes))

    def play(self, for_s: float) -> None:
        """Let the engine run, and the gateway see what comes."""
        until_s = self.engines.now_s + for_s
        while events := self.engines.advance(until_s):
            for event in events:
                if event.kind == FIRST_TOKEN:
                    told, _ = self.sent[event.index]
                    told.has_first_token, told.first_token_age_ms = True, 0.0
                    self._first_s[event.index] = event.time_s
                    self.sidecar.first_token(event.index)
                elif event.kind == END:
                    del self.sent[event.index]
                    self.sidecar.ended(event.index)
        for index, (told, _) in self.sent.items():
            if told.has_first_token:
                told.first_token_age_ms = (self.engines.now_s - self._first_s[index]) * 1e3

    def questions(self) -> list[PredictRequest]:
        """Some with a number, some with quantiles."""
        asked = []
        for number in range(3):
            quantiles = self._quantiles()
            asked.append(
                PredictRequest(
                    request_id=f"new-{number}",
                    num_prompt_tokens=self.rng.randint(1, 130),
                    expected_output_tokens=None if quantiles else self.rng.uniform(1, 80),
                    quantiles=quantiles,
                    num_cached_tokens=self.rng.choice([0, 50]),
                    priority=self.rng.randint(0, 2),
                )
            )
        return asked

    def _quantiles(self) -> dict[str, float] | None:
        median = self.rng.uniform(1, 60)
        return self.rng.choice([None, {"0.1": median / 2, "0.5": median, "0.9": 2.5 * median}])


def figures(prediction: Prediction) -> list[float]:
    """The latencies that a backend gives, in seconds."""
    return [
        value / 1e3
        for value in (
            *(prediction.queue_ms, prediction.ttft_ms, prediction.tpot_ms, prediction.e2e_ms),
            *(prediction.e2e_p50_ms, prediction.e2e_p90_ms, prediction.added_delay_others_ms),
            *(prediction.max_added_delay_ms, prediction.added_gap_ms),
        )
    ]


def live_figures(answer: Answer) -> list[float]:
    """The same of a backend's answer."""
    p50_s = answer.e2e_s if answer.e2e_p50_s is None else answer.e2e_p50_s
    p90_s = answer.e2e_s if answer.e2e_p90_s is None else answer.e2e_p90_s
    return [
        *(answer.queue_s, answer.ttft_s, answer.tpot_s, answer.e2e_s, p50_s, p90_s),
        *(answer.added_delay_others_s, answer.max_added_delay_s, answer.added_gap_s),
    ]


@pytest.mark.parametrize("seed", range(25))
def test_answers_are_those_of_the_live_path(seed: int) -> None:
    """Snapshot, population, kernel: the same latencies and the same state, at any moment."""
    unit = Unit(seed)
    for _ in range(12):
        for _ in range(unit.rng.choice([0, 1, 4])):
            unit.send()
        unit.play(unit.rng.choice([0.0, 0.001, 0.05, 0.3]))
        questions, costs = unit.questions(), unit.rng.random() < 0.7
        predictions = unit.sidecar.predict(questions, simulate=True, cost_to_others=costs)
        population = population_of(unit.engines, 1, unit.sent)
        answers = answers_of(unit.backend, population, questions, cost_to_others=costs)
        for prediction, answer in zip(predictions, answers, strict=True):
            assert figures(prediction) == pytest.approx(live_figures(answer), abs=CLOSE)
            assert prediction.num_slo_broken == answer.num_slo_broken
            assert prediction.num_preempted == answer.num_preempted
            assert (
                prediction.num_running,
                prediction.num_waiting,
                prediction.kv_blocks_free,
                prediction.kv_blocks_wanted,
                prediction.num_unprocessed_tokens,
            ) == (
                len(population.running),
                len(population.waiting),
                population.num_free_blocks,
                population.kv_blocks_wanted,
                population.num_unprocessed_tokens,
            )


def test_backlogs_are_drained_as_by_the_live_path() -> None:
    """With a lower limit of running sequences as well."""
    unit = Unit(3)
    for _ in range(6):
        unit.send()
    unit.play(0.05)
    requests = unit.questions()
    drained = unit.sidecar.drain(BacklogRequest(requests=requests, max_num_seqs=2))
    population = population_of(unit.engines, 1, unit.sent)
    newcomers = [to_newcomer(question, unit.limits) for question in requests]
    answer = unit.backend.drain(population, newcomers, 2)
    assert drained.drain_ms == pytest.approx(answer.drain_s * 1e3)
    assert drained.added_delay_others_ms == pytest.approx(answer.added_delay_others_s * 1e3)
    assert [item.ttft_ms for item in drained.requests] == pytest.approx(
        [met.ttft_s * 1e3 for met in answer.requests]
    )


def told(index: int, num_tokens: float = 50.0) -> SentRequest:
    """A request of 40 prompt tokens as its gateway tells of it."""
    return SentRequest(
        request_id=str(index), num_prompt_tokens=40, expected_output_tokens=num_tokens
    )


def question(num_tokens: float = 20.0) -> PredictRequest:
    """About a request that might come."""
    return PredictRequest(
        request_id="new", num_prompt_tokens=100, expected_output_tokens=num_tokens
    )


def predicted(sidecar: TwinSidecar) -> Prediction:
    """What it says to the question."""
    (prediction,) = sidecar.predict([question()], simulate=True, cost_to_others=False)
    return prediction


def test_the_true_length_makes_no_difference() -> None:
    """Two engines whose answers differ in length alone are predicted alike."""
    engines = make_engines(2)
    sidecars = [TwinSidecar(engines, unit, TABLE) for unit in range(2)]
    for unit, length in enumerate((30, 300)):
        sidecars[unit].sent(unit, told(unit))
        engines.add(unit, request(unit, length=length))
    play(engines, until_s=0.25)
    assert predicted(sidecars[0]).e2e_ms == predicted(sidecars[1]).e2e_ms


def test_a_request_on_its_way_is_waited_for() -> None:
    """The engine does not know it yet, but its gateway has sent it."""
    engines = make_engines()
    sidecar = TwinSidecar(engines, 0, TABLE)
    alone_ms = predicted(sidecar).ttft_ms
    sidecar.sent(0, told(0))
    prediction = predicted(sidecar)
    assert prediction.num_waiting == 1
    assert prediction.ttft_ms > alone_ms
    sidecar.ended(0)
    assert predicted(sidecar).ttft_ms == alone_ms


def test_state_is_as_old_as_it_may_be() -> None:
    """With an interval an engine's changes show only when it is over."""
    engines = make_engines(2)
    sidecars = [
        TwinSidecar(engines, unit, TABLE, state_interval_s=interval_s)
        for unit, interval_s in enumerate((0.0, 0.2))
    ]
    for unit in range(2):
        predicted(sidecars[unit])
        engines.add(unit, request(unit, length=300))
    engines.advance(0.1)
    seen = [predicted(sidecar).num_running for sidecar in sidecars]
    assert seen == [1, 0]
    play(engines, until_s=0.3)
    assert [predicted(sidecar).num_running for sidecar in sidecars] == [1, 1]
    age_ms = predicted(sidecars[1]).state_age_ms
    assert age_ms < 200
    assert age_ms > predicted(sidecars[0]).state_age_ms


def test_a_sidecar_can_be_wrong_about_step_times() -> None:
    """It goes by its own table; calibration learns how wrong that is."""
    slow = TABLE._replace(
        token_s=2 * TABLE.token_s, seq_s=2 * TABLE.seq_s, weights=2 * TABLE.weights
    )
    engines = make_engines()
    exact, wrong = TwinSidecar(engines, 0, TABLE), TwinSidecar(engines, 0, slow, is_calibrated=True)
    assert predicted(wrong).e2e_ms == pytest.approx(2 * predicted(exact).e2e_ms)
    truth = predicted(exact)
    for _ in range(200):
        wrong.predict([question()], simulate=True, cost_to_others=False)
        wrong.observe(
            [
                EndedRequest(
                    request_id="new",
                    ttft_ms=truth.ttft_ms,
                    e2e_ms=truth.e2e_ms,
                    num_output_tokens=20,
                )
            ]
        )
    assert predicted(wrong).e2e_ms == pytest.approx(truth.e2e_ms, rel=0.1)


def test_beliefs_grow_with_what_is_sent() -> None:
    """By rows, by indices and by points."""
    engines = make_engines()
    sidecar = TwinSidecar(engines, 0, TABLE)
    points = {f"{level / 100:.2f}": float(level) for level in range(1, 100)}
    for index in range(0, 4000, 10):
        sidecar.sent(index, msgspec.structs.replace(told(index), quantiles=points))
    assert predicted(sidecar).num_waiting == 400
    for index in range(0, 4000, 20):
        sidecar.ended(index)
    assert predicted(sidecar).num_waiting == 200


def test_state_alone_needs_no_what_if() -> None:
    """It is what load-based policies ask for."""
    engines = make_engines()
    sidecar = TwinSidecar(engines, 0, TABLE)
    sidecar.sent(0, told(0))
    engines.add(0, request(0))
    engines.advance(0.0)
    (prediction,) = sidecar.predict([question()], simulate=False, cost_to_others=False)
    assert (prediction.backend, prediction.ttft_ms, prediction.num_running) == ("none", 0.0, 1)
    assert prediction.kv_blocks_free == LIMITS.num_gpu_blocks - 3
    assert prediction.num_unprocessed_tokens == 40 + 50 - 1
