"""``python -m predictor profile``."""

from __future__ import annotations

import json
import threading
import urllib.request
from pathlib import Path

import pytest

from predictor.__main__ import main
from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.profiles import load_profile
from predictor.step_time.roofline import RooflineStepTime
from tests.emulator.process import MODEL, run_emulator
from tests.predictor.engines import MODEL_PATH
from tests.predictor.test_vidur_tables import write_profile
from wire.model_config import load_model_config


def complete(url: str, num_tokens: int) -> None:
    """Have the engine produce this many tokens."""
    body = {"model": MODEL, "prompt": "word " * 300, "max_tokens": num_tokens, "ignore_eos": True}
    request = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=240) as response:
        response.read()


def test_a_running_engine_is_profiled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From the steps that its requests cause; the profile tells how long they take."""
    out = tmp_path / "tiny.json"
    with run_emulator(tmp_path, "--gpu", "A30") as emulator:
        arguments = [
            *("profile", "--snapshot", f"shm:{emulator.engine_id}", "--seconds", "2"),
            *("--model-config", str(tmp_path / "tiny_config.json"), "--gpu", "A30"),
            *("--name", str(out)),
        ]
        assert main(arguments) == 1
        assert "0 steps in the time, 50 are needed" in capsys.readouterr().err
        clients = [threading.Thread(target=complete, args=(emulator.url, 300)) for _ in range(4)]
        for client in clients:
            client.start()
        assert main(arguments) == 0
        for client in clients:
            client.join()
    assert f"saved {out}" in capsys.readouterr().out
    model = load_model_config(tmp_path / "tiny_config.json")
    profile = load_profile(out, model, find_gpu("A30"))
    shape = batch_shape([], [500] * 4)
    true_s = RooflineStepTime(model, find_gpu("A30")).step_s(shape)
    assert profile.step_s(shape) == pytest.approx(true_s, rel=0.15)


def test_a_vidur_profile_is_imported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Into one file, which a unit of that model can load."""
    out = tmp_path / "llama.json"
    command = ["profile", "--import-vidur", str(write_profile(tmp_path)), "--gpu", "A30"]
    assert main([*command, "--name", str(out), "--model-config", str(MODEL_PATH)]) == 0
    assert f"saved {out}" in capsys.readouterr().out
    model, gpu = load_model_config(MODEL_PATH), find_gpu("A30")
    shape = batch_shape([(100, 0)], [500] * 4)
    from_folder = load_profile(tmp_path, model, gpu)
    assert load_profile(out, model, gpu).step_s(shape) == pytest.approx(
        from_folder.step_s(shape), rel=1e-5
    )


def test_a_roofline_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """As a table, and as JSON with each operator."""
    assert main(["profile", "--roofline", str(MODEL_PATH), "A30"]) == 0
    assert "Llama-2-7b-hf on A30" in capsys.readouterr().out
    assert main(["profile", "--roofline", str(MODEL_PATH), "A30", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["num_tokens"] for row in rows] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    model = load_model_config(MODEL_PATH)
    expected_s = RooflineStepTime(model, find_gpu("A30")).step_s(batch_shape([(512, 0)]))
    assert rows[-1]["prefill_ms"] == pytest.approx(expected_s * 1e3, abs=1e-3)
    assert rows[-1]["decode_ms"] is None
    assert set(rows[0]["layer_us"]) > {"mlp_up_proj", "add"}


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--roofline", str(MODEL_PATH), "A31"], 2, "unknown GPU 'A31'"),
        (["--roofline", "/nowhere.json", "A30"], 2, "/nowhere.json"),
        (["--import-vidur", "/nowhere"], 2, "/nowhere/attention.csv"),
        (["--snapshot", "tcp://there"], 2, "tcp://there"),
        (["--snapshot", "shm:nobody"], 1, "nobody"),
    ],
)
def test_what_cannot_be_used_is_named(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An engine that cannot be read, which may yet start, has a status of its own."""
    unit = ["--model-config", str(MODEL_PATH), "--gpu", "A30", "--name", "never-saved"]
    assert main(["profile", *arguments, *unit]) == status
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments"),
        (["--import-vidur", "/nowhere", "--name", "x", "--gpu", "A30"], "--model-config"),
        (["--snapshot", "shm:nobody", "--seconds", "0"], "(got '0')"),
    ],
)
def test_a_bad_command_line_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the flag or value that is wrong."""
    with pytest.raises(SystemExit, match="2"):
        main(["profile", *arguments])
    assert message in capsys.readouterr().err
