"""A real sidecar process, asked over HTTP, beside an engine that publishes real snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec
import pytest

from tests.predictor.engines import limits, running, snapshot, waiting
from tests.predictor.sidecar import (
    MetricsServer,
    Sidecar,
    metrics_page,
    metrics_server,
    running_sidecar,
)
from wire.prediction import PredictBatchResponse, Prediction


@pytest.fixture(scope="module")
def engine() -> Iterator[MetricsServer]:
    """The HTTP side of the engine."""
    with metrics_server() as server:
        yield server


@pytest.fixture(scope="module", params=["fast", "vidur"])
def started(engine: MetricsServer, request: pytest.FixtureRequest) -> Iterator[Sidecar]:
    """One sidecar for all tests of this module; it starts before its engine does."""
    with running_sidecar(engine.url, "--backend", request.param) as sidecar:
        yield replace(sidecar, backend=request.param)


@pytest.fixture
def busy(started: Sidecar) -> Iterator[Sidecar]:
    """The sidecar of an engine with 3 running and 1 waiting sequences."""
    sequences = [running(f"cmpl-r{i}-0-1a2b3c4d") for i in range(3)]
    writer = started.publish(snapshot(*sequences, waiting("w")))
    started.wait_until(lambda: started.http.get("/ready").json().get("source") == "plugin")
    yield started
    writer.close()


def test_a_question_is_answered(busy: Sidecar) -> None:
    """With latencies, the engine's state, and where that comes from."""
    answer = msgspec.json.decode(busy.ask().content, type=Prediction)
    assert answer.request_id == "q"
    assert 0 < answer.ttft_ms < answer.e2e_ms
    assert answer.tpot_ms > 0
    assert answer.added_delay_others_ms > 0
    assert (answer.num_running, answer.num_waiting, answer.kv_blocks_wanted) == (3, 1, 7)
    assert (answer.kv_blocks_free, answer.kv_blocks_total) == (1000 - 21, 1000)
    assert answer.e2e_p50_ms == pytest.approx(answer.e2e_ms)
    assert answer.e2e_p90_ms == pytest.approx(answer.e2e_ms)
    assert not answer.state_is_stale
    assert (answer.state_source, answer.backend) == ("plugin", busy.backend)
    assert answer.state_age_ms > 0
    assert answer.time_to_predict_ms > 0


def test_a_batch_is_answered_in_order(busy: Sidecar) -> None:
    """Each question as if it were asked alone."""
    lengths = [10, 900, 10]
    questions = [
        {"request_id": f"q{i}", "num_prompt_tokens": n, "quantiles": {"0.5": 20, "0.9": 40}}
        for i, n in enumerate(lengths)
    ]
    response = busy.http.post("/predict/batch", json={"requests": questions})
    first, long, again = msgspec.json.decode(
        response.content, type=PredictBatchResponse
    ).predictions
    assert [p.request_id for p in (first, long, again)] == ["q0", "q1", "q2"]
    assert long.ttft_ms > first.ttft_ms
    assert (first.ttft_ms, first.e2e_ms) == (again.ttft_ms, again.e2e_ms)
    alone = busy.http.post("/predict", json=questions[0])
    assert alone.json()["e2e_ms"] == pytest.approx(first.e2e_ms, rel=0.01)


def test_what_was_sent_is_overlaid(busy: Sidecar) -> None:
    """Known requests take their expected output, unknown ones wait."""
    sent = [
        {"request_id": name, "num_prompt_tokens": 100, "expected_output_tokens": 12}
        for name in ("r0", "fresh")
    ]
    answer = busy.ask(sent=sent).json()
    assert (answer["num_running"], answer["num_waiting"]) == (3, 2)
    assert answer["num_unprocessed_tokens"] < busy.ask().json()["num_unprocessed_tokens"]


def test_the_state_alone_costs_no_simulation(busy: Sidecar) -> None:
    """Latencies are 0 and the backend is called none."""
    body = {
        "requests": [{"request_id": "q", "num_prompt_tokens": 9, "expected_output_tokens": 9}],
        "simulate": False,
    }
    (answer,) = busy.http.post("/predict/batch", json=body).json()["predictions"]
    assert (answer["backend"], answer["e2e_ms"], answer["num_running"]) == ("none", 0, 3)


def test_the_state_is_shown(busy: Sidecar) -> None:
    """With its source and age."""
    shown = busy.http.get("/state").json()
    assert shown["source"] == "plugin"
    assert shown["age_ms"] > 0
    assert len(shown["snapshot"]["running"]) == 3


def test_a_question_whose_deadline_has_passed_is_dropped(busy: Sidecar) -> None:
    """Nobody waits for its answer."""
    body = {"request_id": "q", "num_prompt_tokens": 9, "expected_output_tokens": 9}
    response = busy.http.post("/predict", json=body, headers={"x-astrolabe-deadline-ms": "0"})
    assert response.status_code == 503
    assert "deadline" in busy.error_of(response)["message"]


def test_the_sidecar_outlives_its_engine(started: Sidecar, engine: MetricsServer) -> None:
    """Plug-in, then the engine's page, then 503 with the reasons, then plug-in again."""
    ready = started.http.get
    writer = started.publish(snapshot(running("a")))
    started.wait_until(lambda: ready("/ready").json().get("source") == "plugin")

    engine.page = metrics_page(num_running=2, num_waiting=1, kv_usage=0.1)
    writer.close()
    answer = started.ask().json()
    assert answer["state_source"] == "metrics"
    assert (answer["num_running"], answer["num_waiting"]) == (2, 1)
    assert (answer["kv_blocks_free"], answer["kv_blocks_total"]) == (720, 800)
    assert answer["e2e_ms"] > 0

    engine.page = None
    started.wait_until(lambda: ready("/ready").status_code == 503)
    refused = started.ask()
    assert refused.status_code == 503
    message = started.error_of(refused)["message"]
    assert "plugin: " in message
    assert "metrics: " in message
    assert ready("/health").status_code == 200
    assert ready("/state").status_code == 503

    writer = started.publish(snapshot(running("a")))
    started.wait_until(lambda: ready("/ready").status_code == 200)
    assert started.ask().json()["state_source"] == "plugin"
    writer.close()


def test_a_state_that_cannot_be_played_answers_503(started: Sidecar) -> None:
    """And the sidecar goes on."""
    broken = running("a", prompt=4000)
    broken.num_tokens = 9000
    broken.num_computed_tokens = 8999
    writer = started.publish(snapshot(broken, engine_limits=limits()))
    response = started.ask()
    assert response.status_code == 503
    assert "got 9000" in started.error_of(response)["message"]
    writer.write(msgspec.msgpack.encode(snapshot(running("a"))))
    assert started.ask().status_code == 200
    writer.close()
