"""Whatever is sent to a real sidecar, it answers in OpenAI's format and goes on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.predictor.engines import running, snapshot, waiting
from tests.predictor.sidecar import Sidecar, metrics_server, running_sidecar


@pytest.fixture(scope="module")
def busy() -> Iterator[Sidecar]:
    """The sidecar of an engine with 3 running and 1 waiting sequences."""
    with (
        metrics_server() as engine,
        running_sidecar(engine.url, "--max-questions", "16") as sidecar,
    ):
        sequences = [running(f"cmpl-r{i}-0-1a2b3c4d") for i in range(3)]
        writer = sidecar.publish(snapshot(*sequences, waiting("w")))
        sidecar.wait_until(lambda: sidecar.http.get("/ready").json().get("source") == "plugin")
        yield sidecar
        writer.close()


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


@pytest.mark.parametrize("path", ["/predict", "/predict/batch", "/predict/backlog"])
def test_questions_are_posted(busy: Sidecar, path: str) -> None:
    """Another method is refused by name."""
    response = busy.http.get(path)
    assert response.status_code == 405
    assert f"{path} takes POST, not GET" in busy.error_of(response)["message"]


def test_a_client_that_leaves_mid_question_is_forgotten(busy: Sidecar) -> None:
    """The next one is answered, and no error is counted."""
    before = busy.metric("astrolabe_predictor_errors_total")
    url = busy.http.base_url
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall(b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert busy.ask().status_code == 200
    assert busy.metric("astrolabe_predictor_errors_total") == before


def test_a_backlog_names_the_bad_request(busy: Sidecar) -> None:
    """As a batch does."""
    requests = [{"request_id": "b", "num_prompt_tokens": 5, "quantiles": {"0.5": -1}}]
    response = busy.http.post("/predict/backlog", json={"requests": requests})
    assert response.status_code == 400
    assert busy.error_of(response)["param"] == "requests[0].quantiles"
    response = busy.http.post("/predict/backlog", json={"requests": [], "max_num_seqs": 0})
    assert response.status_code == 400
    assert busy.error_of(response)["param"] == "max_num_seqs"
