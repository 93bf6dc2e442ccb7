"""``python -m predictor record`` and ``whatif``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from predictor.__main__ import main
from predictor.state.validate import read_json
from predictor.vllm_plugin.publisher import SnapshotPublisher
from predictor.vllm_plugin.shared_memory import SnapshotWriter
from tests.emulator.process import run_emulator
from tests.predictor.engines import MODEL_PATH, running, snapshot, waiting
from tests.predictor.sidecar import ROOT
from tests.vllm_plugin.snapshots import encoded_snapshot, new_engine_id

TWO_LINES = 2 * (msgspec.json.encode(snapshot()).decode() + "\n")
QUESTION = {"request_id": "q", "num_prompt_tokens": 300, "expected_output_tokens": 80}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "predictor", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture
def engine_id() -> str:
    return new_engine_id()


@pytest.fixture
def publisher(engine_id: str) -> Iterator[SnapshotPublisher]:
    """An engine's side, which publishes at TCP too."""
    made = SnapshotPublisher(engine_id, "127.0.0.1:0")
    yield made
    made.close()


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options for a snapshot of a busy engine and for a question."""
    state = snapshot(running("cmpl-a-0-1a2b3c4d"), running("b", 200, 30), waiting("c"))
    (tmp_path / "snapshot.json").write_bytes(msgspec.json.encode(state))
    (tmp_path / "request.json").write_text(json.dumps(QUESTION))
    return ["--snapshot", f"{tmp_path}/snapshot.json", "--request", f"{tmp_path}/request.json"]


def test_a_live_engines_snapshot_answers_a_question(tmp_path: Path) -> None:
    """From recording to the answer, each a command."""
    recorded, question = tmp_path / "snapshot.json", tmp_path / "request.json"
    question.write_text(json.dumps(QUESTION))
    with run_emulator(tmp_path) as engine:
        address = f"shm:{engine.engine_id}"
        done = run("record", "--snapshot", address, "--out", str(recorded))
    assert done.returncode == 0, done.stderr
    assert read_json(recorded.read_bytes()).engine_id == engine.engine_id
    assert recorded.read_text().startswith('{\n  "version": 1')
    model = ["--model-config", str(tmp_path / "tiny_config.json"), "--gpu", "A100-80G"]
    done = run("whatif", "--snapshot", str(recorded), "--request", str(question), *model)
    assert done.returncode == 0, done.stderr
    assert "test/tiny on A100-80G" in done.stderr
    answer = json.loads(done.stdout)
    assert (answer["request_id"], answer["num_running"]) == ("q", 0)
    assert 0 < answer["ttft_ms"] < answer["e2e_ms"]


def test_several_snapshots_are_lines(
    engine_id: str, publisher: SnapshotPublisher, tmp_path: Path
) -> None:
    """Each differs from the one before; they come from shared memory or over the network."""
    may_end = threading.Event()

    def publish() -> None:
        step = 0
        while not may_end.is_set():
            step += 1
            publisher.publish(encoded_snapshot(engine_id, step // 2))
            time.sleep(0.01)

    publisher.publish(encoded_snapshot(engine_id, 0))
    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for address in (f"shm:{engine_id}", f"http://127.0.0.1:{publisher.port}/snapshot"):
            out = tmp_path / "steps.jsonl"
            arguments = ["--snapshot", address, "--count", "5", "--out", str(out)]
            assert main(["record", *arguments]) == 0
            steps = [read_json(line).step for line in out.read_bytes().splitlines()]
            assert len(steps) == 5
            assert steps == sorted(set(steps))
    finally:
        may_end.set()
        thread.join()


def test_an_idle_engine_has_one_snapshot(
    engine_id: str, publisher: SnapshotPublisher, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """However many are asked for; the time that was given is kept."""
    publisher.publish(encoded_snapshot(engine_id))
    limits = ["--count", "3", "--seconds", "0.1"]
    assert main(["record", "--snapshot", f"shm:{engine_id}", *limits]) == 0
    shown = capfdbinary.readouterr()
    assert [read_json(line).step for line in shown.out.splitlines()] == [1]
    assert b"1 of 3" in shown.err


def test_an_absent_engine_leaves_the_file_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to write."""
    out = tmp_path / "kept.json"
    out.write_text("kept")
    engine_id = new_engine_id()
    writer = SnapshotWriter(engine_id)
    try:
        assert main(["record", "--snapshot", "shm:no-such-engine", "--out", str(out)]) == 1
    finally:
        writer.close()
    (error,) = capsys.readouterr().err.splitlines()
    assert "no-such-engine" in error
    assert re.search(rf"engines that publish on this host: .*\bshm:{engine_id}\b", error)
    assert out.read_text() == "kept"


@pytest.mark.parametrize("backend", ["fast", "vidur"])
def test_each_backend_answers(
    backend: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """With the state of the snapshot, at its time."""
    answer = _answer([*files, "--backend", backend], capsys)
    assert answer["backend"] == backend
    assert (answer["num_running"], answer["num_waiting"]) == (2, 1)
    assert (answer["state_age_ms"], answer["state_is_stale"]) == (0.0, False)
    assert answer["queue_ms"] <= answer["ttft_ms"] < answer["e2e_ms"]


def test_a_list_and_a_batch_are_answered_as_such(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """What was sent tells how much output to expect of the others."""
    path = Path(files[3])
    path.write_text(json.dumps([QUESTION, QUESTION | {"request_id": "r"}]))
    plain = _answer(files, capsys)["predictions"]
    assert [prediction["request_id"] for prediction in plain] == ["q", "r"]
    sent = {"request_id": "a", "num_prompt_tokens": 100, "expected_output_tokens": 900.0}
    path.write_text(json.dumps({"requests": [QUESTION], "sent": [sent]}))
    (told,) = _answer(files, capsys)["predictions"]
    assert told["num_unprocessed_tokens"] > plain[0]["num_unprocessed_tokens"]


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        (1, None, "snapshot.json: No such file"),
        (3, None, "request.json: No such file"),
        (1, "{", "snapshot.json: Input data was truncated"),
        (3, "nonsense", "request.json: body: not JSON"),
        (1, TWO_LINES, "snapshot.json: JSON is malformed: trailing characters"),
        (1, '{"version": 3}', "snapshot.json: version: 1 is the one that can be read (got 3)"),
        (3, "[1]", "request.json: body: Expected `object`, got `int` - at `$.requests[0]`"),
        (3, '[{"request_id": "q", "num_prompt_tokens": 0}]', "requests[0].num_prompt_tokens"),
        (3, '{"request_id": "q", "num_prompt_tokens": 1}', "expected_output_tokens"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    place: int,
    content: str | None,
    message: str,
    files: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the key and the value that are wrong."""
    path = Path(files[place])
    path.unlink() if content is None else path.write_text(content)
    assert main(["whatif", *files]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gpu", "A31"], "unknown GPU 'A31'"),
        (["--model-config", "/nowhere.json"], "/nowhere.json"),
        (["--backend", "vidur", "--rules", "vllm"], "vllm"),
        (["--profile", "/nowhere"], "/nowhere"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(
    options: list[str],
    message: str,
    files: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Nothing is printed as an answer."""
    assert main(["whatif", *files, *options]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_an_unknown_model_has_to_be_configured(
    files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """There would be no step times for it."""
    path = Path(files[1])
    path.write_text(path.read_text().replace("Llama-2", "Llama-9"))
    assert main(["whatif", *files]) == 2
    assert "--model-config" in (error := capsys.readouterr().err)
    assert "Llama-9" in error
    assert main(["whatif", *files, "--model-config", str(MODEL_PATH)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["record"], "--snapshot"),
        (["record", "--snapshot", "shm:x", "--count", "0"], "whole number from 1 (got '0')"),
        (["record", "--snapshot", "shm:x", "--seconds", "nan"], "above 0 (got 'nan')"),
        (["whatif", "--snapshot", "x"], "--request"),
        (["whatif", "--snapshot", "x", "--request", "y", "--backend", "slow"], "'slow'"),
    ],
)
def test_a_bad_command_line_explains_itself(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, with status 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_an_address_of_another_form_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The error quotes it."""
    assert main(["record", "--snapshot", "ftp://there"]) == 2
    assert "ftp://there" in capsys.readouterr().err


def _answer(options: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["whatif", *options]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer
