"""What a real sidecar does beyond single answers: backlogs, learning, calibrating, living on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.predictor.engines import MODEL, limits, running, snapshot, waiting
from tests.predictor.sidecar import (
    MetricsServer,
    Sidecar,
    free_port,
    metrics_page,
    metrics_server,
    running_sidecar,
)
from wire.prediction import BacklogPrediction
from wire.snapshot import EngineSnapshot, StepRecord

QUESTION = {"request_id": "q", "num_prompt_tokens": 100, "expected_output_tokens": 20}


@pytest.fixture(scope="module")
def engine() -> Iterator[MetricsServer]:
    """The HTTP side of the engine."""
    with metrics_server() as server:
        yield server


@pytest.fixture(scope="module")
def started(engine: MetricsServer) -> Iterator[Sidecar]:
    """A sidecar with the usual settings."""
    with running_sidecar(engine.url) as sidecar:
        yield sidecar


@pytest.fixture
def busy(started: Sidecar) -> Iterator[Sidecar]:
    """The sidecar of an engine with 3 running and 1 waiting sequences."""
    writer = started.publish(snapshot(*(running(f"r{i}") for i in range(3)), waiting("w")))
    started.wait_until(lambda: started.http.get("/ready").json().get("source") == "plugin")
    yield started
    writer.close()


def backlog(sidecar: Sidecar, size: int) -> BacklogPrediction:
    """How the engine would work off so many equal requests."""
    requests = [QUESTION | {"request_id": f"b{i}"} for i in range(size)]
    response = sidecar.http.post("/predict/backlog", json={"requests": requests})
    assert response.status_code == 200, response.text
    return msgspec.json.decode(response.content, type=BacklogPrediction)


def test_a_backlog_is_drained(busy: Sidecar) -> None:
    """In its order; the drain ends with the last of all, and a longer one ends later."""
    short, long = backlog(busy, 3), backlog(busy, 60)
    assert [item.request_id for item in short.requests] == ["b0", "b1", "b2"]
    queued_ms = [item.queue_ms for item in long.requests]
    assert queued_ms == sorted(queued_ms)
    assert short.drain_ms >= max(item.e2e_ms for item in short.requests)
    assert long.drain_ms > short.drain_ms
    assert long.added_delay_others_ms > short.added_delay_others_ms > 0


def test_what_nobody_asked_for_costs_nothing(busy: Sidecar) -> None:
    """An empty backlog ends when what is there ends; an empty batch has no answers."""
    assert 0 < backlog(busy, 0).drain_ms <= backlog(busy, 1).drain_ms
    assert busy.ask_batch() == []


def test_step_times_are_learnt_from_the_engine(engine: MetricsServer) -> None:
    """An engine three times as slow as its data sheet is soon predicted three times as slow."""
    decodes = batch_shape(decode_contexts=[110] * 3)
    slow_s = 3 * RooflineStepTime(MODEL, find_gpu("A30")).step_s(decodes)
    steps = [
        StepRecord(
            step=step,
            started_at=step * slow_s,
            duration_s=slow_s,
            num_decode_tokens=3,
            num_decode_seqs=3,
            num_kv_tokens=330,
        )
        for step in range(1, 65)
    ]
    state = snapshot(*(running(f"r{i}") for i in range(3)))
    with running_sidecar(engine.url) as sidecar:
        writer = sidecar.publish(state)
        before = sidecar.ask().json()["tpot_ms"]
        assert not sidecar.http.get("/state").json()["step_time"]["is_learnt"]
        writer.write(msgspec.msgpack.encode(msgspec.structs.replace(state, recent_steps=steps)))
        sidecar.wait_until(lambda: sidecar.http.get("/state").json()["step_time"]["is_learnt"])
        assert sidecar.ask().json()["tpot_ms"] == pytest.approx(3 * before, rel=0.15)
        assert sidecar.metric("astrolabe_predictor_step_time_steps_total") == 64
        writer.close()


def test_predictions_are_calibrated_by_outcomes(engine: MetricsServer) -> None:
    """A unit whose requests take half as long again as predicted is soon predicted so."""
    state = snapshot(*(running(f"r{i}") for i in range(3)))
    question = {"num_prompt_tokens": 100, "expected_output_tokens": 20}
    with running_sidecar(engine.url) as sidecar:
        writer = sidecar.publish(state)
        (raw,) = sidecar.ask_batch(question | {"request_id": "first"})
        ended: list[dict[str, object]] = []
        for index in range(100):
            name = f"q{index}"
            sidecar.ask_batch(question | {"request_id": name}, ended=ended)
            times = {key: 1.5 * raw[key] for key in ("ttft_ms", "e2e_ms")}
            ended = [{"request_id": name, "num_output_tokens": 20} | times]
        (learnt,) = sidecar.ask_batch(question | {"request_id": "last"})
        assert learnt["ttft_ms"] == pytest.approx(1.5 * raw["ttft_ms"], rel=0.1)
        assert learnt["e2e_ms"] == pytest.approx(1.5 * raw["e2e_ms"], rel=0.1)
        assert sidecar.metric('astrolabe_predictor_outcomes_total{latency="e2e"}') >= 99
        assert sidecar.metric('astrolabe_predictor_p90_coverage{latency="ttft"}') > 0
        writer.close()


def test_an_old_state_is_used_and_marked(started: Sidecar) -> None:
    """A plug-in that has been silent for seconds while its engine works."""
    writer = started.publish(snapshot(running("a")), age_s=5.0)
    started.wait_until(lambda: started.http.get("/ready").json().get("source") == "plugin")
    answer = started.ask().json()
    assert answer["state_is_stale"]
    assert answer["state_age_ms"] >= 5000
    assert started.http.get("/state").json()["is_stale"]
    assert started.metric("astrolabe_predictor_stale_answers_total") >= 1
    writer.close()


def hostile_states() -> list[EngineSnapshot]:
    """States that pass for an engine's and are as much work as can be."""
    roomy = msgspec.structs.replace(
        limits(num_gpu_blocks=2**31, max_num_seqs=2**16), max_model_len=10_000_000
    )
    tight = limits(num_gpu_blocks=300)
    return [
        snapshot(*(waiting(f"w{i}", prompt=9_000_000) for i in range(5000)), engine_limits=roomy),
        snapshot(*(running(f"r{i}") for i in range(5000)), engine_limits=roomy),
        snapshot(
            *(running(f"r{i}", prompt=1) for i in range(48)),
            *(waiting(f"w{i}", prompt=4000) for i in range(2000)),
            engine_limits=tight,
            num_free_blocks=0,
        ),
    ]


@pytest.mark.parametrize("state", hostile_states(), ids=["prompts", "decodes", "tight"])
def test_a_hostile_state_takes_bounded_time(started: Sidecar, state: EngineSnapshot) -> None:
    """An answer or an error, and the sidecar's other paths answer meanwhile."""
    writer = started.publish(state)
    started.wait_until(lambda: started.http.get("/ready").json().get("source") == "plugin")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(started.ask, expected_output_tokens=9_000_000)
        assert httpx.get(started.http.base_url.join("/health"), timeout=60.0).status_code == 200
        assert asked.result().status_code in (200, 503)
    writer.write(msgspec.msgpack.encode(snapshot(running("a"))))
    assert started.ask().status_code == 200
    writer.close()


def test_too_many_slow_questions_are_turned_away_at_once(engine: MetricsServer) -> None:
    """The ones that were first are answered; afterwards all is as before."""
    with running_sidecar(engine.url, "--backend", "vidur", "--max-waiting", "2") as sidecar:
        writer = sidecar.publish(snapshot(*(running(f"r{i}") for i in range(48))))
        slow = {"requests": [QUESTION | {"expected_output_tokens": 900}] * 8}

        def ask(_: int) -> tuple[int, float]:
            began = time.monotonic()
            url = sidecar.http.base_url.join("/predict/batch")
            response = httpx.post(url, json=slow, timeout=60.0)
            return response.status_code, time.monotonic() - began

        with ThreadPoolExecutor(10) as pool:
            answers = list(pool.map(ask, range(10)))
        writer.close()
        answered = [took_s for status, took_s in answers if status == 200]
        refused = [took_s for status, took_s in answers if status == 503]
        assert len(answered) + len(refused) == 10
        assert 2 <= len(answered) <= 4
        assert min(refused) < min(answered)
        num_counted = sidecar.metric('astrolabe_predictor_errors_total{error="Overloaded"}')
        assert num_counted >= len(refused)
        assert sidecar.metric("astrolabe_predictor_waiting_calls") == 0


def test_the_api_describes_itself(started: Sidecar) -> None:
    """Questions and answers have schemas, though the framework does not parse them."""
    paths = started.http.get("/openapi.json").json()["paths"]
    body = paths["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    question = body["properties"]["requests"]["items"]["properties"]
    assert "num_prompt_tokens" in question
    assert "$ref" not in str(body)
    assert {"/predict", "/predict/backlog", "/state"} <= set(paths)
    assert "swagger" in started.http.get("/docs").text


def test_the_sidecar_is_light(started: Sidecar) -> None:
    """It runs next to engines: neither torch nor vLLM nor Vidur, and little memory."""
    mapped = Path(f"/proc/{started.pid}/maps").read_text()
    for library in ("libtorch", "/vllm/", "/vidur/", "pandas"):
        assert library not in mapped
    status = Path(f"/proc/{started.pid}/status").read_text()
    (rss_kb,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    assert int(rss_kb) < 250 * 1024


def test_a_sidecar_can_be_told_to_read_the_page_only(engine: MetricsServer) -> None:
    """A plug-in's snapshot is not looked at then; nothing listens at first."""
    engine.page = metrics_page(num_running=1)
    with running_sidecar(engine.url, "--state", "metrics") as sidecar:
        writer = sidecar.publish(snapshot())
        assert sidecar.ask().json()["state_source"] == "metrics"
        writer.close()


def test_an_unreachable_engine_leaves_the_sidecar_alive() -> None:
    """It is alive and not ready, and says why."""
    with running_sidecar(f"http://127.0.0.1:{free_port()}") as sidecar:
        assert sidecar.http.get("/health").status_code == 200
        response = sidecar.http.get("/ready")
        assert response.status_code == 503
        assert "Cannot connect" in sidecar.error_of(response)["message"]
