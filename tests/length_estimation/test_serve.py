"""``python -m length_estimation serve``: a real process, asked over HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from length_estimation.online.serve_command import main
from tests.length_estimation.tiny_model import (
    LONGEST_PROMPT,
    MODELS,
    median_tokens,
    write_model_folder,
)
from wire.length import LengthQuestion

ROOT = Path(__file__).parents[2]
QUESTION = {"text": "how are you?", "num_prompt_tokens": 20}
START_DEADLINE_S = 240.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a running server."""
    folder = write_model_folder(tmp_path_factory.mktemp("tiny"))
    port = _free_port()
    command = [
        *(sys.executable, "-m", "length_estimation", "serve", "--port", str(port)),
        *("--model-folder", str(folder), "--log-level", "warning"),
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as client:
            _wait_until_up(client, process)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) in (0, -signal.SIGTERM)


def _wait_until_up(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        assert process.poll() is None, "the server ended by itself"
        assert time.monotonic() < deadline, "the server does not start"
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.ConnectError:
            time.sleep(0.02)


def error_of(response: httpx.Response, status: int) -> dict[str, Any]:
    """The inner object of an OpenAI error."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    return error


def test_a_question_gets_the_distribution(server: httpx.Client) -> None:
    """Median and mean; unknown fields are ignored."""
    question = QUESTION | {"context": "you", "model": "m", "max_tokens": 500, "later": 1}
    answer = server.post("/estimate", json=question).json()
    wanted = median_tokens(LengthQuestion(text="", num_prompt_tokens=20))
    assert answer["quantiles"]["0.5"] == pytest.approx(wanted, rel=1e-4)
    assert wanted < answer["mean_tokens"] < 500
    assert answer["source"] == "model"


def test_a_batch_gets_an_estimate_for_each_that_has_one(server: httpx.Client) -> None:
    """In their order; the model fails for the second."""
    questions = [
        QUESTION | {"text": "a"},
        QUESTION | {"num_prompt_tokens": 2 * LONGEST_PROMPT},
        QUESTION | {"text": "b", "num_prompt_tokens": 200},
    ]
    answer = server.post("/estimate/batch", json={"questions": questions}).json()
    first, second, third = answer["estimates"]
    assert second is None
    assert first["mean_tokens"] < third["mean_tokens"]
    assert server.post("/estimate/batch", json={"questions": []}).json() == {"estimates": []}


def test_observed_lengths_are_learnt(server: httpx.Client) -> None:
    """And change the next estimate; of questions that were never asked nothing is learnt."""
    question = QUESTION | {"model": "observed"}
    server.post("/estimate", json=question)
    for _ in range(30):
        outcome = {"question": question, "num_output_tokens": 7}
        assert server.post("/observe", json=outcome).json() == {"learnt": True}
    answer = server.post("/estimate", json=question).json()
    assert answer["source"] == "model_recalibrated"
    assert answer["quantiles"]["0.5"] < 10
    never_asked = {"question": QUESTION | {"text": "?"}, "num_output_tokens": 7}
    assert server.post("/observe", json=never_asked).json() == {"learnt": False}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b"", "body:"),
        (b"how are you?", "body: JSON is malformed"),
        (b'{"text": "\xff\xfe", "num_prompt_tokens": 1}', "body:"),
        (b'{"text": "\\ud800", "num_prompt_tokens": 1}', "body:"),
        (b'{"text": "how"}', "num_prompt_tokens"),
        (b'{"text": 5, "num_prompt_tokens": 1}', "$.text"),
        (b'{"text": "how", "num_prompt_tokens": 1e99}', "$.num_prompt_tokens"),
        (b'{"text": "how", "num_prompt_tokens": -3}', "num_prompt_tokens must be within"),
        (b'{"text": "how", "num_prompt_tokens": 1, "max_tokens": -2}', "(got -2)"),
        (b"[" * 100_000, "body:"),
    ],
)
def test_a_bad_body_is_told_what_is_wrong(server: httpx.Client, body: bytes, named: str) -> None:
    """Status 400, in OpenAI's error JSON."""
    error = error_of(server.post("/estimate", content=body), 400)
    assert named in error["message"]
    assert error["type"] == "invalid_request_error"


def test_a_large_body_is_refused(server: httpx.Client) -> None:
    """Four megabytes are the limit; one megabyte is answered."""
    megabyte = QUESTION | {"text": "how are you " * 90_000}
    assert server.post("/estimate", json=megabyte).status_code == 200
    five = QUESTION | {"text": "x" * (5 << 20)}
    assert "4194304 bytes" in error_of(server.post("/estimate", json=five), 413)["message"]


def test_too_many_questions_at_once_are_refused(server: httpx.Client) -> None:
    """The error names the limit."""
    response = server.post("/estimate/batch", json={"questions": [QUESTION] * 65})
    assert "at most 64 (got 65)" in error_of(response, 400)["message"]


def test_a_failing_model_is_a_server_error_and_the_server_lives_on(server: httpx.Client) -> None:
    """It says what failed, not how."""
    for _ in range(3):
        response = server.post("/estimate", json=QUESTION | {"model": MODELS[-1]})
        error = error_of(response, 500)
        assert error["code"] == "failed"
        assert error["type"] == "server_error"
    assert server.post("/estimate", json=QUESTION).status_code == 200


def test_unknown_paths_and_methods_are_told(server: httpx.Client) -> None:
    """In the same JSON."""
    assert "/estimates" in error_of(server.get("/estimates"), 404)["message"]
    assert "Method Not Allowed" in error_of(server.get("/estimate"), 405)["message"]


def test_metrics_count_what_was_asked(server: httpx.Client) -> None:
    """By source and reason."""

    def metric(name: str) -> float:
        lines = server.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    before = metric('astrolabe_length_estimator_answers_total{by="cache"}')
    server.post("/estimate", json=QUESTION)
    server.post("/estimate", json=QUESTION)
    assert metric('astrolabe_length_estimator_answers_total{by="cache"}') > before
    server.post("/estimate", json=QUESTION | {"num_prompt_tokens": -1})
    assert metric('astrolabe_length_estimator_misses_total{reason="invalid"}') > 0


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--port", "70000"], "--port: Input should be less than or equal to 65535 (got '70000')"),
        (["--deadline-s", "0"], "--deadline-s"),
        (["--model-folder", "/nowhere"], "/nowhere/config.json cannot be read"),
    ],
)
def test_a_bad_command_line_is_refused(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the flag and the value, or the file; nothing is started."""
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_serving_never_imports_torch() -> None:
    """Nor transformers nor datasets, which are not there where a gateway runs."""
    script = (
        "import sys; import length_estimation.online.serve_command;"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ran.stdout.strip() == "[]"
