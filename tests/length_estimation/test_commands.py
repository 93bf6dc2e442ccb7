"""The commands as they are typed, in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import load_from_disk

from length_estimation.model_folder import load_model_folder
from length_estimation.served_model import ServedModel
from wire.length import LengthQuestion

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_PACKAGES = ["-S", "-E"]
"""Options of a Python that finds nothing but its standard library."""


def run(
    *words: str, folder: Path, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """A command's end, output and errors."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=800,
    )


def next_command(printed: str) -> list[str]:
    """What a command says to type next, without the Python."""
    line = next(line for line in printed.splitlines() if line.startswith("next"))
    return line.partition(": ")[2].split()[1:]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder above a checkout called ``astrolabe``."""
    (tmp_path / "astrolabe").symlink_to(ROOT)
    return tmp_path


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A checkout without an environment of its own, and without the shipped model."""
    for package in ("length_estimation", "wire"):
        shutil.copytree(
            ROOT / package,
            tmp_path / package,
            ignore=shutil.ignore_patterns("default", "__pycache__"),
        )
    (tmp_path / "exp").mkdir()
    shutil.copy(ROOT / "exp" / "setup.sh", tmp_path / "exp")
    return tmp_path


@pytest.mark.slow
def test_three_commands_make_a_model(checkout: Path) -> None:
    """From the folder above the checkout, each names the next, the last has tagged the data."""
    rows = [
        [{"from": "human", "value": f"count to {number}"}, {"from": "gpt", "value": "1 " * number}]
        for number in range(1, 101)
    ]
    lines = [json.dumps({"conversations": said}) + "\n" for said in rows]
    (checkout / "sharegpt_gpt4.jsonl").write_text("".join(lines))

    sampled = run("astrolabe/length_estimation/sample.py", folder=checkout)
    assert sampled.returncode == 0, sampled.stderr
    assert next_command(sampled.stdout) == ["astrolabe/length_estimation/train_roberta.py"]

    trained = run(*next_command(sampled.stdout), folder=checkout)
    assert trained.returncode == 0, trained.stderr
    taken = "--out .astrolabe/models/lengths --base-model minilm --max-examples 4000"
    assert taken in trained.stdout
    words = next_command(trained.stdout)
    assert words == ["astrolabe/length_estimation/eval_roberta.py", "--tag-data", "True"]

    evaluated = run(*words, folder=checkout)
    assert evaluated.returncode == 0, evaluated.stderr
    figures = json.loads(evaluated.stdout.splitlines()[-1])
    assert figures["unseen_in_training"]
    assert next(iter(figures["methods"])) == "minilm"
    tagged = load_from_disk(checkout / ".astrolabe" / "data" / "sharegpt-tagged")
    assert all(row["predicted_by"] == "lengths" for row in tagged["train"])

    folder = checkout / ".astrolabe" / "models" / "lengths"
    assert load_model_folder(folder).config.inputs.models == ["gpt-4"]
    question = LengthQuestion(text="count to 9", num_prompt_tokens=9)
    assert ServedModel(folder).estimate([question])[0].mean_tokens > 0


@pytest.mark.parametrize(
    "words",
    [
        ["length_estimation/sample.py"],
        ["length_estimation/train_roberta.py"],
        ["length_estimation/eval_roberta.py", "--tag-data", "True"],
        ["-m", "length_estimation", "tag"],
    ],
)
def test_without_packages_a_line_says_what_to_install(bare: Path, words: list[str]) -> None:
    """The package's name and the command, and no traceback."""
    ended = run(*WITHOUT_PACKAGES, *words, folder=bare)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert "which is not installed" in line
    assert line.endswith(": bash exp/setup.sh --install-only --extras exp,estimator")


def test_an_installed_package_names_its_extra(bare: Path) -> None:
    """Where there is no checkout with a script that installs."""
    (bare / "exp" / "setup.sh").unlink()
    ended = run(*WITHOUT_PACKAGES, "-m", "length_estimation", "sample", folder=bare)
    assert ended.returncode == 2
    assert ended.stderr.endswith(": pip install 'astrolabe-llm[estimator]'\n")


def test_the_checkouts_own_python_goes_on(bare: Path) -> None:
    """Where it has been installed, and the Python that was typed lacks packages."""
    python = bare / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    # -S is among the words handed on: this one stands in for an environment that has packages.
    python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    words = ["length_estimation/sample.py", "--source", "nowhere.jsonl"]
    ended = run(*WITHOUT_PACKAGES, *words, folder=bare)
    assert ended.returncode == 2
    first, second = ended.stderr.splitlines()
    assert first.endswith("going on with .venv/bin/python")
    assert second == "error: there is no file nowhere.jsonl"


def test_no_hub_is_told_before_data_are_read(tmp_path: Path) -> None:
    """With the encoder that needs none; there are no data to be read here."""
    words = ["-m", "length_estimation", "train", "--base-model", "roberta-base", "--data", "none"]
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        environment = {"HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
        ended = run(*words, folder=tmp_path, environment=environment)
    assert ended.returncode == 2
    last = ended.stderr.splitlines()[-1]
    assert f"'roberta-base': no hub at {endpoint} is reached" in last
    assert "--base-model minilm" in last
    assert not (tmp_path / ".astrolabe").exists()


def test_a_silent_hub_is_not_waited_for(tmp_path: Path) -> None:
    """One that takes connections and never answers."""
    asked = "from length_estimation.hub import check_hub; check_hub('model', 'm', deadline_s=0.5)"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {"HF_ENDPOINT": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        ended = run("-c", asked, folder=ROOT, environment=environment)
    assert "is reached (no answer in 0.5 s)" in ended.stderr.splitlines()[-1]
