"""The calibration learns what predictions lack, and nothing that it is told can spoil them."""

import math
import random
import timeit
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.calibration import Calibration
from predictor.calibration.regions import Region, region_of
from wire.prediction import EndedRequest, Prediction

LOADS: dict[Region, dict[str, int]] = {
    "idle": {},
    "running": {"num_running": 5},
    "queue": {"num_running": 9, "num_waiting": 3},
    "kv_pressure": {"num_running": 9, "num_waiting": 3, "kv_blocks_free": 5},
}
NORMAL_P90 = 1.2816
MEDIAN_TOKENS, TOKENS_SPREAD = 200.0, 0.7


def predicted(
    request_id: str, ttft_ms: float, tpot_ms: float, region: Region, num_tokens: float = 200.0
) -> Prediction:
    """What a backend says of a request of a known length."""
    e2e_ms = ttft_ms + tpot_ms * (num_tokens - 1)
    state = {"num_running": 0, "num_waiting": 0, "kv_blocks_free": 90} | LOADS[region]
    return Prediction(
        request_id=request_id,
        queue_ms=ttft_ms / 2,
        ttft_ms=ttft_ms,
        tpot_ms=tpot_ms,
        e2e_ms=e2e_ms,
        added_delay_others_ms=0.0,
        kv_blocks_total=100,
        kv_blocks_wanted=0,
        num_preempted=0,
        num_unprocessed_tokens=0,
        state_source="plugin",
        state_age_ms=1.0,
        backend="fast",
        time_to_predict_ms=0.1,
        num_running=state["num_running"],
        num_waiting=state["num_waiting"],
        kv_blocks_free=state["kv_blocks_free"],
    )


@dataclass(frozen=True)
class Bias:
    """How an engine departs from what is predicted."""

    factor: float = 1.0
    added_ms: float = 0.0
    noise: float = 0.15


@dataclass
class Unit:
    """A synthetic engine and the calibration of its predictions; a request ends each 0.1 s."""

    bias: Callable[[Region], Bias]
    now_s: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    lies: float = 0.0
    """Share of the outcomes that are absurdly late."""
    answers: list[tuple[Prediction, EndedRequest]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.calibration = Calibration(lambda: self.now_s)

    def serve(self, count: int) -> None:
        """Predict, serve and observe so many requests of all regions, lengths unknown before."""
        for _ in range(count):
            self.now_s += 0.1
            region = self.rng.choice(list(LOADS))
            raw = predicted(
                f"r{len(self.answers)}",
                self.rng.lognormvariate(math.log(80), 0.8),
                self.rng.lognormvariate(math.log(12), 0.3),
                region,
                MEDIAN_TOKENS,
            )
            p90_tokens = MEDIAN_TOKENS * math.exp(NORMAL_P90 * TOKENS_SPREAD)
            raw.e2e_p50_ms, raw.e2e_p90_ms = raw.e2e_ms, raw.ttft_ms + raw.tpot_ms * p90_tokens
            answer = self.calibration.calibrate(raw)
            ended = self._meet(raw, self.bias(region))
            self.answers.append((answer, ended))
            self.calibration.observe([ended])

    def _meet(self, raw: Prediction, bias: Bias) -> EndedRequest:
        def noise() -> float:
            return math.exp(self.rng.gauss(0.0, bias.noise))

        num_tokens = max(2, round(self.rng.lognormvariate(math.log(MEDIAN_TOKENS), TOKENS_SPREAD)))
        ttft_ms = (bias.factor * raw.ttft_ms + bias.added_ms) * noise()
        ttft_ms *= 1e4 if self.rng.random() < self.lies else 1.0
        e2e_ms = ttft_ms + bias.factor * raw.tpot_ms * noise() * (num_tokens - 1)
        return EndedRequest(
            request_id=raw.request_id,
            ttft_ms=ttft_ms,
            e2e_ms=e2e_ms,
            num_output_tokens=num_tokens,
        )


def met(ended: EndedRequest) -> dict[str, float]:
    """The latencies of a streamed answer."""
    assert ended.ttft_ms is not None
    assert ended.num_output_tokens is not None
    tpot_ms = (ended.e2e_ms - ended.ttft_ms) / (ended.num_output_tokens - 1)
    return {"ttft": ended.ttft_ms, "tpot": tpot_ms, "e2e": ended.e2e_ms}


def only_queue(region: Region) -> Bias:
    """An engine that the model knows well unless it has a queue."""
    return Bias(1.3, 20.0) if region == "queue" else Bias()


@pytest.mark.parametrize("region", list(LOADS))
def test_regions_go_by_what_a_prediction_knows(region: Region) -> None:
    """Few free blocks outweigh a queue, a queue outweighs running requests."""
    assert region_of(predicted("r", 1.0, 1.0, region)) == region


def test_nothing_is_corrected_before_there_is_enough_to_go_by() -> None:
    """Fifteen outcomes change nothing; where a backend gives no quantiles they are its means."""
    unit = Unit(lambda region: Bias(3.0))
    unit.serve(15)
    raw = predicted("r", 100.0, 10.0, "idle")
    answer = unit.calibration.calibrate(raw)
    assert (answer.queue_ms, answer.ttft_ms, answer.tpot_ms) == (50.0, 100.0, 10.0)
    assert answer.e2e_ms == answer.e2e_p50_ms == answer.e2e_p90_ms == raw.e2e_ms
    assert answer.ttft_p50_ms == answer.ttft_p90_ms == 100.0
    unit.serve(1)
    assert unit.calibration.calibrate(raw).ttft_ms > 200.0


@pytest.mark.parametrize("lies", [0.0, 0.05])
def test_a_bias_of_one_region_is_learnt_there_and_only_there(lies: float) -> None:
    """Factor and addition come out within 400 requests, one in twenty being absurd or none."""
    unit = Unit(only_queue, lies=lies)
    unit.serve(400)
    ttft = unit.calibration.figures().latencies["ttft"]
    assert ttft.factor["queue"] == pytest.approx(1.3, rel=0.1)
    assert ttft.added_ms["queue"] == pytest.approx(20.0, abs=8.0)
    for region in ("idle", "running", "kv_pressure"):
        assert ttft.factor[region] == pytest.approx(1.0, abs=0.1)
        assert ttft.added_ms[region] == pytest.approx(0.0, abs=6.0)
    for raw_ms in (30.0, 100.0, 400.0):
        answer = unit.calibration.calibrate(predicted("r", raw_ms, 12.0, "queue"))
        assert answer.ttft_ms == pytest.approx(1.3 * raw_ms + 20.0, rel=0.1)
        assert answer.queue_ms / answer.ttft_ms == pytest.approx(0.5)


def test_p50_and_p90_cover_what_they_say() -> None:
    """Of TTFT and TPOT with the model's noise, of E2E with the spread of lengths on top of it."""
    unit = Unit(only_queue, lies=0.03)
    unit.serve(400)
    del unit.answers[:]
    unit.serve(1200)
    for name in ("ttft", "tpot", "e2e"):
        for quantile, (least, most) in {"p50": (0.44, 0.56), "p90": (0.85, 0.95)}.items():
            within = [
                met(ended)[name] <= getattr(answer, f"{name}_{quantile}_ms")
                for answer, ended in unit.answers
            ]
            assert least <= sum(within) / len(within) <= most, (name, quantile)
        assert 0.85 <= (unit.calibration.figures().latencies[name].p90_coverage or 0.0) <= 0.95


def test_lengths_that_differ_from_the_estimate_are_no_error_of_the_model() -> None:
    """Answers five times as long as expected: mean E2E stays, p90 of E2E rises."""
    unit = Unit(lambda region: Bias())
    for number in range(100):
        unit.calibration.calibrate(predicted(str(number), 100.0, 10.0, "idle", num_tokens=100))
        ended = EndedRequest(
            request_id=str(number), ttft_ms=100.0, e2e_ms=100.0 + 4990.0, num_output_tokens=500
        )
        unit.calibration.observe([ended])
    raw = predicted("r", 100.0, 10.0, "idle", num_tokens=100)
    answer = unit.calibration.calibrate(raw)
    assert answer.e2e_ms == pytest.approx(raw.e2e_ms, rel=0.01)
    assert answer.e2e_p90_ms > 3 * raw.e2e_ms
    assert unit.calibration.figures().latencies["e2e"].median_abs_error == pytest.approx(
        0, abs=0.01
    )


def test_an_engine_that_becomes_slow_raises_the_alarm_until_it_is_adapted_to() -> None:
    """Twice as slow: alarm within 30 requests, right predictions soon, silence in a minute."""
    unit = Unit(lambda region: Bias())
    unit.serve(1500)
    before = unit.calibration.figures().latencies
    assert not any(figures.drift_alarm or figures.num_drifts for figures in before.values())
    unit.bias = lambda region: Bias(2.0)
    unit.serve(30)
    for figures in unit.calibration.figures().latencies.values():
        assert figures.drift_alarm
        assert figures.num_drifts == 1
    unit.serve(70)
    for region in LOADS:
        answer = unit.calibration.calibrate(predicted("r", 100.0, 10.0, region))
        assert (answer.ttft_ms, answer.tpot_ms) == pytest.approx((200.0, 20.0), rel=0.15)
    unit.serve(600)
    for figures in unit.calibration.figures().latencies.values():
        assert not figures.drift_alarm
        assert figures.num_drifts == 1


def test_unstreamed_answers_teach_e2e() -> None:
    """Without a first token there is no TTFT and no TPOT to compare."""
    unit = Unit(lambda region: Bias())
    for number in range(50):
        raw = unit.calibration.calibrate(predicted(str(number), 100.0, 10.0, "idle"))
        ended = EndedRequest(request_id=str(number), e2e_ms=3000.0, num_output_tokens=200)
        unit.calibration.observe([ended])
    answer = unit.calibration.calibrate(predicted("r", 100.0, 10.0, "idle"))
    assert answer.ttft_ms == raw.ttft_ms
    assert answer.e2e_ms == pytest.approx(3000.0, rel=0.01)


def test_only_what_was_predicted_lately_is_learnt_from() -> None:
    """Unknown ids, outcomes told twice, answers without a what-if and very old ones count as
    unknown."""
    unit = Unit(lambda region: Bias())
    calibration = unit.calibration
    state_only = msgspec.structs.replace(predicted("s", 0.0, 0.0, "idle"), backend="none")
    assert calibration.calibrate(state_only) is state_only
    calibration.calibrate(predicted("old", 100.0, 10.0, "idle"))
    unit.now_s += 7200.0
    calibration.calibrate(predicted("twice", 100.0, 10.0, "idle"))
    told = [
        EndedRequest(request_id=request_id, ttft_ms=100.0, e2e_ms=200.0, num_output_tokens=9)
        for request_id in ("never", "s", "old", "twice", "twice")
    ]
    calibration.observe(told)
    figures = calibration.figures()
    assert figures.num_unknown == 4
    assert figures.latencies["ttft"].num_samples == 1


def test_memory_is_bounded() -> None:
    """The oldest predictions without an outcome are forgotten."""
    unit = Unit(lambda region: Bias())
    for number in range(70_000):
        unit.calibration.calibrate(predicted(str(number), 100.0, 10.0, "idle"))
    for request_id in ("0", "69999"):
        unit.calibration.observe([EndedRequest(request_id=request_id, ttft_ms=1.0, e2e_ms=2.0)])
    assert unit.calibration.figures().num_unknown == 1


@pytest.mark.parametrize(
    ("ttft_ms", "e2e_ms", "num_tokens"),
    [
        (math.nan, 100.0, 9),
        (50.0, math.nan, 9),
        (-1.0, 100.0, 9),
        (50.0, math.inf, 9),
        (50.0, 1e12, 9),
        (101.0, 100.0, 9),
        (50.0, 100.0, 0),
        (50.0, 100.0, 10**30),
    ],
)
def test_what_cannot_be_true_is_refused(ttft_ms: float, e2e_ms: float, num_tokens: int) -> None:
    """Nothing is learnt from it, and it is counted."""
    unit = Unit(lambda region: Bias())
    unit.calibration.calibrate(predicted("r", 100.0, 10.0, "idle"))
    ended = EndedRequest(
        request_id="r", ttft_ms=ttft_ms, e2e_ms=e2e_ms, num_output_tokens=num_tokens
    )
    unit.calibration.observe([ended])
    figures = unit.calibration.figures()
    assert figures.num_refused == 1
    assert {latency.num_samples for latency in figures.latencies.values()} == {0}


RAW_MS = st.floats(0.0, 1e5)
REGION = st.sampled_from(list(LOADS))
SPREAD = st.floats(1.0, 100.0)
"""Of the length distribution: p90 by p50."""


def spread_out(raw: Prediction, spread: float) -> Prediction:
    """The prediction with quantiles of its own."""
    for name in ("ttft", "tpot", "e2e"):
        setattr(raw, f"{name}_p50_ms", getattr(raw, f"{name}_ms"))
        setattr(raw, f"{name}_p90_ms", getattr(raw, f"{name}_ms") * spread)
    return raw


@st.composite
def hostile_outcomes(draw: st.DrawFn) -> list[tuple[Prediction, EndedRequest]]:
    """Predictions with outcomes that have little to do with them: absurd or just far off."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    scale_ms = draw(st.sampled_from([1e-3, 1.0, 100.0, 1e5]))
    share_absurd = draw(st.sampled_from([0.0, 0.3, 1.0]))
    absurd = draw(st.lists(st.floats(), min_size=1, max_size=5))
    spread, outcomes = draw(SPREAD), []
    for number in range(draw(st.integers(1, 100))):
        raw = predicted(
            str(number), 10 ** rng.uniform(-3, 5), 10 ** rng.uniform(-3, 3), rng.choice([*LOADS])
        )
        e2e_ms = scale_ms * 10 ** rng.uniform(-1, 1)
        ended = EndedRequest(
            request_id=raw.request_id,
            ttft_ms=rng.choice([None, rng.random() * e2e_ms]),
            e2e_ms=e2e_ms,
            num_output_tokens=rng.choice([None, 1, rng.randrange(1, 10_000), 0, -1, 10**12]),
        )
        if rng.random() < share_absurd:
            setattr(ended, rng.choice(["ttft_ms", "e2e_ms"]), rng.choice(absurd))
        outcomes.append((spread_out(raw, spread), ended))
    return outcomes


@settings(max_examples=100, deadline=None)
@given(outcomes=hostile_outcomes(), ttft_ms=RAW_MS, tpot_ms=RAW_MS, region=REGION, spread=SPREAD)
def test_no_observation_makes_a_prediction_absurd(
    outcomes: list[tuple[Prediction, EndedRequest]],
    ttft_ms: float,
    tpot_ms: float,
    region: Region,
    spread: float,
) -> None:
    """Whatever is told: finite, not negative, p50 <= p90, within the bounds of a correction."""
    unit = Unit(lambda region: Bias())
    for raw, ended in outcomes:
        unit.now_s += 1.0
        unit.calibration.calibrate(raw)
        unit.calibration.observe([ended])
    raw = spread_out(predicted("r", ttft_ms, tpot_ms, region), spread)
    answer = unit.calibration.calibrate(raw)
    assert 0.0 <= answer.queue_ms <= answer.ttft_ms
    assert answer.ttft_ms <= answer.e2e_ms
    for name in ("ttft", "tpot", "e2e"):
        raw_ms = getattr(raw, f"{name}_ms")
        mean, p50, p90 = (getattr(answer, f"{name}{q}_ms") for q in ("", "_p50", "_p90"))
        assert raw_ms / 4 <= mean <= 4 * max(raw_ms, raw.ttft_ms) + 250.0
        assert 0.0 <= p50 <= p90 <= 4 * (4 * max(raw_ms, raw.ttft_ms) * spread + 250.0)
    for figures in unit.calibration.figures().latencies.values():
        assert 0.0 <= figures.drift <= 1.0
        assert all(0.25 <= factor <= 4.0 for factor in figures.factor.values())


def test_p90_is_never_below_p50() -> None:
    """Spreads that proved far too wide make p90 smaller, but not for a request without any."""
    unit = Unit(lambda region: Bias())
    for number in range(40):
        raw = spread_out(predicted(str(number), 100.0, 10.0, "idle"), spread=50.0)
        unit.calibration.calibrate(raw)
        ended = EndedRequest(
            request_id=str(number), ttft_ms=100.0, e2e_ms=raw.e2e_ms, num_output_tokens=200
        )
        unit.calibration.observe([ended])
    for spread, lowered in ((50.0, 4.0), (1.0, 1.0)):
        raw = spread_out(predicted("r", 100.0, 10.0, "idle"), spread)
        answer = unit.calibration.calibrate(raw)
        assert (answer.ttft_p50_ms, answer.tpot_p50_ms) == pytest.approx((100.0, 10.0))
        assert answer.ttft_p90_ms == pytest.approx(100.0 * spread / lowered)
        assert answer.tpot_p90_ms == pytest.approx(10.0 * spread / lowered)
        assert answer.e2e_p90_ms == pytest.approx(raw.e2e_ms * spread / lowered)


def test_a_prediction_is_calibrated_in_microseconds() -> None:
    """A sidecar answers tens of thousands a second; 50 us leaves room for a busy machine."""
    unit = Unit(only_queue)
    unit.serve(100)
    raw = predicted("r", 100.0, 10.0, "queue")
    best_s = min(timeit.repeat(lambda: unit.calibration.calibrate(raw), number=200, repeat=5))
    assert best_s / 200 < 50e-6
