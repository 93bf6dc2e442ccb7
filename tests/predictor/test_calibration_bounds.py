"""Nothing that a calibration is told makes it absurd or large."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.calibration.regions import Region
from tests.predictor.synthetic_unit import LOADS, Bias, Unit, predicted, spread_out
from wire.prediction import EndedRequest, Prediction

RAW_MS = st.floats(0.0, 1e5)
REGION = st.sampled_from(list(LOADS))
SPREAD = st.floats(1.0, 100.0)
"""Of the length distribution: p90 by p50."""


@dataclass(frozen=True)
class Hostility:
    """Outcomes that have little to do with what was predicted: absurd or just far off."""

    seed: int
    count: int
    scale_ms: float
    share_absurd: float
    absurd: float
    spread: float

    def outcomes(self) -> Iterator[tuple[Prediction, EndedRequest]]:
        """Predictions and what is told of them."""
        rng = random.Random(self.seed)
        for number in range(self.count):
            ttft_ms, tpot_ms = 10 ** rng.uniform(-3, 5), 10 ** rng.uniform(-3, 3)
            raw = predicted(str(number), ttft_ms, tpot_ms, rng.choice([*LOADS]))
            e2e_ms = self.scale_ms * 10 ** rng.uniform(-1, 1)
            ended = EndedRequest(
                request_id=raw.request_id,
                ttft_ms=rng.choice([None, rng.random() * e2e_ms]),
                e2e_ms=e2e_ms,
                num_output_tokens=rng.choice([None, 1, rng.randrange(1, 10_000), 0, 10**12]),
            )
            if rng.random() < self.share_absurd:
                setattr(ended, rng.choice(["ttft_ms", "e2e_ms"]), self.absurd)
            yield spread_out(raw, self.spread), ended


HOSTILITY = st.builds(
    Hostility,
    seed=st.integers(0, 2**32),
    count=st.integers(1, 100),
    scale_ms=st.sampled_from([1e-3, 1.0, 100.0, 1e5]),
    share_absurd=st.sampled_from([0.0, 0.3, 1.0]),
    absurd=st.floats(),
    spread=SPREAD,
)


@settings(max_examples=100)
@given(hostility=HOSTILITY, ttft_ms=RAW_MS, tpot_ms=RAW_MS, region=REGION, spread=SPREAD)
def test_no_observation_makes_a_prediction_absurd(
    hostility: Hostility, ttft_ms: float, tpot_ms: float, region: Region, spread: float
) -> None:
    """Whatever is told: finite, not negative, p50 <= p90, within the bounds of a correction."""
    unit = Unit(lambda region: Bias())
    for raw, ended in hostility.outcomes():
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
