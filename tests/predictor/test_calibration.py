"""The calibration learns what predictions lack: where, how much, and when it changes."""

import timeit

import msgspec
import pytest

from predictor.calibration.regions import Region, region_of
from tests.predictor.synthetic_unit import LOADS, Bias, Unit, predicted
from wire.prediction import EndedRequest


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


@pytest.mark.parametrize(("factor", "compared"), [(1.15, 1.0), (2.0, 2.0)])
def test_units_are_compared_with_clear_corrections_only(factor: float, compared: float) -> None:
    """What a unit is slower by, once that is beyond doubt; the answer itself is corrected."""
    unit = Unit(lambda region: Bias(factor))
    unit.serve(400)
    raw = predicted("r", 100.0, 10.0, "running")
    answer = unit.calibration.calibrate(raw)
    assert answer.e2e_ms == pytest.approx(factor * raw.e2e_ms, rel=0.1)
    assert answer.comparable_e2e_ms == pytest.approx(compared * raw.e2e_ms, rel=0.1)


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


def test_a_prediction_is_calibrated_in_microseconds() -> None:
    """A sidecar answers tens of thousands a second; 50 us leaves room for a busy machine."""
    unit = Unit(only_queue)
    unit.serve(100)
    raw = predicted("r", 100.0, 10.0, "queue")
    best_s = min(timeit.repeat(lambda: unit.calibration.calibrate(raw), number=200, repeat=5))
    assert best_s / 200 < 50e-6
