"""Training, from a data set to a model folder that serving reads."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import datasets
import msgspec
import numpy as np
import onnxruntime
import pytest

from length_estimation.__main__ import main
from length_estimation.examples import Example
from length_estimation.model_folder import MODEL_FILE, load_model_folder
from wire.length import LengthQuestion

ANSWERS = {"list": 20, "explain": 120, "essay": 700}
TOPICS = ("rivers", "bread", "type theory", "Mars", "taxes", "violins")
OPTIONS = ("--base-model", "scratch", "--window", "24", "--tail", "6", "--batch-size", "16")


def make_data(folder: Path, num_examples: int = 160) -> Path:
    """A data set whose first word says, but for noise, how long the answer is."""
    rng = random.Random(0)
    examples = [example(index, rng) for index in range(num_examples)]
    splits = {"train": examples[40:], "validation": examples[:20], "test": examples[20:40]}
    rows = {
        name: datasets.Dataset.from_list([msgspec.structs.asdict(one) for one in part])
        for name, part in splits.items()
    }
    datasets.DatasetDict(rows).save_to_disk(folder)
    return folder


def example(index: int, rng: random.Random) -> Example:
    kind = rng.choice(list(ANSWERS))
    return Example(
        conversation=str(index),
        turn=0,
        text=f"{kind} {rng.choice(TOPICS)} {index}",
        context="",
        num_prompt_tokens=5,
        earlier_answer_characters=[],
        max_tokens=None,
        model="tested",
        num_output_tokens=round(ANSWERS[kind] * rng.uniform(0.9, 1.1)),
    )


def medians(folder: Path, texts: list[str]) -> list[float]:
    """As served: through the exported model."""
    loaded = load_model_folder(folder)
    questions = [LengthQuestion(text=text, num_prompt_tokens=5, model="tested") for text in texts]
    batch = loaded.input_maker.collate(loaded.input_maker.encode(questions))
    session = onnxruntime.InferenceSession(loaded.model, providers=["CPUExecutionProvider"])
    log_quantiles, _ = session.run(None, batch._asdict())
    assert (np.diff(log_quantiles, axis=1) >= 0).all()
    middle = loaded.config.quantile_levels.index(0.5)
    return [float(tokens) for tokens in np.exp(log_quantiles[:, middle])]


def train(data: Path, out: Path, *more: str) -> int:
    return main(["train", "--data", str(data), "--out", str(out), *OPTIONS, *more])


@pytest.mark.slow
def test_a_model_learns_what_the_texts_tell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From scratch, on a data set where the first word decides, the order comes out right."""
    data = make_data(tmp_path / "data")
    assert train(data, tmp_path / "model", "--epochs", "6", "--name", "words") == 0
    short, middle, long = medians(tmp_path / "model", ["list Mars", "explain Mars", "essay Mars"])
    assert short < 60 < middle < 300 < long
    card = capsys.readouterr().out
    assert "# words" in card
    assert "| test | 20 |" in card
    assert (tmp_path / "model" / "MODEL_CARD.md").read_text() in card
    assert json.loads((tmp_path / "model" / "config.json").read_bytes())["inputs"]["models"] == [
        "tested"
    ]
    # A finished run is not trained over by mistake; resumed, it exports the same model again.
    digest = load_model_folder(tmp_path / "model").config.sha256[MODEL_FILE]
    assert train(data, tmp_path / "model", "--epochs", "6") == 2
    assert "--resume" in capsys.readouterr().err
    assert train(data, tmp_path / "model", "--epochs", "6", "--resume") == 0
    assert load_model_folder(tmp_path / "model").config.sha256[MODEL_FILE] == digest


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path: Path) -> None:
    """Killed after its first checkpoint it leaves no model folder, and goes on from there."""
    data, out = make_data(tmp_path / "data"), tmp_path / "model"
    command = [sys.executable, "-m", "length_estimation", "train", "--data", str(data)]
    process = subprocess.Popen(
        [*command, "--out", str(out), *OPTIONS, "--epochs", "200"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline_s = time.monotonic() + 240
        checkpoints = tmp_path / "model-checkpoints"
        while not list(checkpoints.glob("checkpoint-*/trainer_state.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not out.exists()
    # With another option than before, it is another run.
    assert train(data, out, "--epochs", "3", "--resume") == 2
    options = json.loads((checkpoints / "options.json").read_text())
    (checkpoints / "options.json").write_text(json.dumps({**options, "epochs": 3.0}))
    assert train(data, out, "--epochs", "3", "--resume") == 0
    assert medians(out, ["list Mars"])[0] > 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--window", "2000"), "--window must be at most 512"),
        (("--tail", "30"), "--tail must be from 0 to 21"),
        (("--layers", "9"), "layers must be from 1 to 4, got 9"),
        (("--base-model", "./nowhere"), "no encoder './nowhere'"),
    ],
)
def test_wrong_options_name_the_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    """Options that cannot work are refused in a line, before any training."""
    assert train(make_data(tmp_path / "data", 60), tmp_path / "model", *more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a data set is named."""
    assert train(tmp_path / "nothing", tmp_path / "model") == 2
    assert str(tmp_path / "nothing") in capsys.readouterr().err


def test_unknown_commands_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """So are the commands there are."""
    assert main(["tran"]) == 2
    error = capsys.readouterr().err
    assert "'tran'" in error
    assert "sample" in error
