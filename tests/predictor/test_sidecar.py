"""A real sidecar process, asked over HTTP, beside an engine that publishes real snapshots."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.predictor.engines import limits, running, snapshot, waiting
from tests.predictor.sidecar import (
    MetricsServer,
    Sidecar,
    free_port,
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


@pytest.fixture(scope="module")
def started(engine: MetricsServer) -> Iterator[Sidecar]:
    """One sidecar for all tests of this module; it starts before its engine does."""
    with running_sidecar(engine.url, "--max-waiting", "2", "--max-questions", "16") as sidecar:
        yield sidecar


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
    assert (answer.state_source, answer.backend) == ("plugin", "vidur")
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
    assert alone.json()["e2e_ms"] == pytest.approx(first.e2e_ms)


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


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "Expected `object`"),
        (b'{"num_prompt_tokens": 5, "expected_output_tokens": 5}', "request_id"),
        (b'{"request_id": "q", "num_prompt_tokens": -5, "expected_output_tokens": 5}', "got -5"),
        (b'{"request_id": "q", "num_prompt_tokens": 0, "expected_output_tokens": 5}', "got 0"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": NaN}', "JSON"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": -1}', "got -1"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": 1e30}', "1e+30"),
        (b'{"request_id": "q", "num_prompt_tokens": 99999999, "expected_output_tokens": 5}', "99"),
        (b'{"request_id": "q", "num_prompt_tokens": "5", "expected_output_tokens": 5}', "`int`"),
        (b'{"request_id": "q", "num_prompt_tokens": 5}', "got neither"),
        (
            b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": 5, '
            b'"quantiles": {"0.5": 5}}',
            "got both",
        ),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "quantiles": {}}', "quantiles"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "quantiles": {"x": 5}}', "'x'"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "quantiles": {"nan": 5}}', "'nan' is not"),
        (b'{"request_id": "q", "num_prompt_tokens": 5, "quantiles": {"1.5": 5}}', "got 1.5"),
        (
            b'{"request_id": "q", "num_prompt_tokens": 5, "quantiles": {"0.5": 9, "0.9": 3}}',
            "must not fall",
        ),
        (
            b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": 5, '
            b'"max_tokens": 0}',
            "max_tokens",
        ),
        (
            b'{"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": 5, "sent": '
            b'[{"request_id": "s", "num_prompt_tokens": -1, "expected_output_tokens": 1}]}',
            "sent[0].num_prompt_tokens",
        ),
        (b'{"x":' * 100_000, "not JSON"),
    ],
)
def test_a_bad_question_is_refused(busy: Sidecar, body: bytes, named: str) -> None:
    """With an OpenAI error that names what is wrong, and the next question is answered."""
    response = busy.http.post("/predict", content=body)
    assert response.status_code == 400
    error = busy.error_of(response)
    assert named in error["message"]
    assert error["type"] == "invalid_request_error"
    assert busy.ask().status_code == 200


def test_a_batch_names_the_bad_question(busy: Sidecar) -> None:
    """And must not hold too many."""
    good = {"request_id": "q", "num_prompt_tokens": 5, "expected_output_tokens": 5}
    mixed = {"requests": [good, good | {"num_prompt_tokens": -7}]}
    response = busy.http.post("/predict/batch", json=mixed)
    assert response.status_code == 400
    assert busy.error_of(response)["param"] == "requests[1].num_prompt_tokens"
    response = busy.http.post("/predict/batch", json={"requests": [good] * 17})
    assert response.status_code == 400
    assert "at most 16" in busy.error_of(response)["message"]


def test_a_huge_body_is_not_read_to_its_end(busy: Sidecar) -> None:
    """413, and the sidecar lives on."""
    response = busy.http.post("/predict", content=b" " * 4_100_000)
    assert response.status_code == 413
    assert "4000000" in busy.error_of(response)["message"]
    assert busy.ask().status_code == 200


@pytest.mark.parametrize("header", ["soon", "nan", "-1"])
def test_a_bad_deadline_is_refused(busy: Sidecar, header: str) -> None:
    """It names the header."""
    response = busy.http.get("/health", headers={"x-astrolabe-deadline-ms": header})
    assert response.status_code == 200
    body = {"request_id": "q", "num_prompt_tokens": 9, "expected_output_tokens": 9}
    response = busy.http.post("/predict", json=body, headers={"x-astrolabe-deadline-ms": header})
    assert response.status_code == 400
    assert header in busy.error_of(response)["message"]


def test_a_question_whose_deadline_has_passed_is_dropped(busy: Sidecar) -> None:
    """Nobody waits for its answer."""
    body = {"request_id": "q", "num_prompt_tokens": 9, "expected_output_tokens": 9}
    response = busy.http.post("/predict", json=body, headers={"x-astrolabe-deadline-ms": "0"})
    assert response.status_code == 503
    assert "deadline" in busy.error_of(response)["message"]


def test_too_many_questions_are_turned_away_at_once(started: Sidecar) -> None:
    """The ones that were first are answered; afterwards all is as before."""
    writer = started.publish(snapshot(*(running(f"r{i}") for i in range(48))))
    question = {"request_id": "q", "num_prompt_tokens": 100, "expected_output_tokens": 900}
    slow = {"requests": [question] * 8}

    def ask(_: int) -> tuple[int, float]:
        began = time.monotonic()
        response = httpx.post(started.http.base_url.join("/predict/batch"), json=slow, timeout=60.0)
        return response.status_code, time.monotonic() - began

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(ask, range(10)))
    writer.close()
    answered = [took_s for status, took_s in answers if status == 200]
    refused = [took_s for status, took_s in answers if status == 503]
    assert len(answered) + len(refused) == 10
    assert 2 <= len(answered) <= 4
    assert min(refused) < min(answered)
    assert started.metric('astrolabe_predictor_errors_total{error="Overloaded"}') >= len(refused)
    assert started.metric("astrolabe_predictor_waiting_calls") == 0


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


def test_the_api_describes_itself(started: Sidecar) -> None:
    """Questions and answers have schemas, though the framework does not parse them."""
    paths = started.http.get("/openapi.json").json()["paths"]
    body = paths["/predict/batch"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    question = body["properties"]["requests"]["items"]["properties"]
    assert "num_prompt_tokens" in question
    assert "$ref" not in str(body)
    assert "swagger" in started.http.get("/docs").text


def test_the_sidecar_never_imports_torch_or_vllm(started: Sidecar) -> None:
    """It runs next to engines, with little memory and a short start."""
    mapped = Path(f"/proc/{started.pid}/maps").read_text()
    assert "libtorch" not in mapped
    assert "/vllm/" not in mapped


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
