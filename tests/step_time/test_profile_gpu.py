"""``python -m exp.profile_gpu``, for real, on the CPU and with a tiny model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from predictor.step_time.base import batch_shape
from predictor.step_time.gpus import find_gpu
from predictor.step_time.profiles import load_profile
from tests.emulator.process import TINY_MODEL, environment
from tests.vllm.environment import ROOT, vllm_python
from wire.model_config import load_model_config

pytestmark = pytest.mark.vllm


def profile(folder: Path, *options: str, **changes: object) -> subprocess.CompletedProcess[str]:
    """Run it where PyTorch is."""
    config = folder / "config.json"
    config.write_text(json.dumps({**TINY_MODEL, "num_kv_heads": 2, **changes}))
    command = [str(vllm_python()), "-m", "exp.profile_gpu", "--model-config", str(config)]
    command += ["--out", str(folder / "out"), *options]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_what_it_measures_is_a_profile(tmp_path: Path) -> None:
    """It loads, more work takes longer, and the machine is named."""
    ran = profile(
        tmp_path, "--device", "cpu", "--repeats", "3",
        "--max-tokens", "64", "--max-batch", "4", "--max-context", "512",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    model = load_model_config(tmp_path / "config.json")
    measured = load_profile(tmp_path / "out", model, find_gpu("CPU"))
    small, large = batch_shape([], [32]), batch_shape([(64, 448)], [512] * 3)
    assert 0 < measured.step_s(small) < measured.step_s(large) < 1
    machine = json.loads((tmp_path / "out" / "machine.json").read_text())
    assert machine["model_name"] == model.model_name
    assert machine["torch"]
    assert machine["device"]


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    """A machine without a GPU, and weights of a type that plain products do not take."""
    without_gpu = profile(tmp_path, "--device", "cuda")
    assert without_gpu.returncode == 2
    assert "PyTorch finds no GPU" in without_gpu.stderr
    fp8 = profile(tmp_path, "--device", "cpu", dtype="fp8")
    assert fp8.returncode == 2
    assert "dtype: cannot be measured (got 'fp8')" in fp8.stderr
