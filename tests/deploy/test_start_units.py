"""``exp/start_units.sh``, with emulated engines in place of vLLM."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exp.fleet.health import is_port_free
from exp.fleet.state import Store
from exp.fleet.status import fleet_status
from tests.deploy.ports import free_offset

PROJECT = Path(__file__).parents[2]
PORTS = [8001, 8002, 8101, 8102]
EMULATOR = (
    f"{sys.executable} -m exp.emulator --port {{port}} --model-config config/llama_config.json"
    " --engine-id {engine_id} --speed 50"
)


@dataclass(frozen=True, slots=True)
class Units:
    """Two units with ports and a record of their own."""

    folder: Path
    offset: int

    def start(self, *options: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run the script as users do."""
        command = ["bash", "exp/start_units.sh", "--state-dir", str(self.folder)]
        command += ["--port-offset", str(self.offset), "--units", "2", *options]
        env = {**os.environ, "PYTHON": sys.executable, "PATH": path or os.environ["PATH"]}
        return subprocess.run(
            command, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=600, check=False
        )


@pytest.fixture
def units(tmp_path: Path) -> Iterator[Units]:
    """Not started yet; whatever a test leaves running is stopped."""
    made = Units(tmp_path / "state", free_offset(PORTS, random.Random()))
    yield made
    made.start("--stop")


def test_start_mend_and_stop(units: Units) -> None:
    """Engines and sidecars become healthy, a dead one is started again, stop ends only these."""
    chosen = ["--command", EMULATOR, "--tensor-parallel-size", "1"]
    chosen += ["--gpu", "A30", "--model-config", "config/llama_config.json"]
    started = units.start(*chosen)
    assert started.returncode == 0, started.stdout + started.stderr
    assert f"--unit=unit-2=http://127.0.0.1:{8002 + units.offset}," in started.stdout
    assert units.start("--status").stdout.count(" healthy ") == 4
    rows = {(row.role, row.name): row.pid for row in fleet_status(Store(units.folder))}
    os.kill(rows["engine", "unit-1"] or 0, signal.SIGKILL)
    mended = units.start(*chosen)
    assert "1 of 4 processes were started now" in mended.stdout, mended.stderr
    assert units.start("--stop").stdout.count("stopped  ") == 4
    assert all(is_port_free(port + units.offset) for port in PORTS)


def test_commands_for_vllm(units: Units) -> None:
    """Each unit has GPUs of its own; parallelism, quantisation and the rest reach vLLM."""
    shown = units.start("--dry-run", "--quantization", "awq", "--", "--gpu-memory-utilization=0.8")
    commands = [line for line in shown.stdout.splitlines() if "vllm serve" in line]
    assert [line.split()[0] for line in commands] == [
        "CUDA_VISIBLE_DEVICES=0,1",
        "CUDA_VISIBLE_DEVICES=2,3",
    ]
    for index, line in enumerate(commands):
        port = 8001 + index + units.offset
        assert f"ASTROLABE_ENGINE_ID=unit-{index + 1}-{port} " in line
        assert f"--port {8001 + index + units.offset} --tensor-parallel-size 2 " in line
        assert line.endswith("--quantization awq --gpu-memory-utilization=0.8")
        assert "--scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler" in line


def test_sidecars_reckon_with_what_the_engines_are(units: Units) -> None:
    """By default two GPUs a unit and weights of eight bits. A dry run tells and writes nothing."""
    shown = units.start("--dry-run")
    sidecar = next(line for line in shown.stdout.splitlines() if "predictor serve" in line)
    words = sidecar.split()
    path = words[words.index("--model-config") + 1]
    model = json.loads(shown.stdout.split(f"# {path} would hold:\n# ")[1].splitlines()[0])
    assert (model["tensor_parallel_size"], model["dtype"]) == (2, "fp8")
    assert "predictor serve" not in units.start("--dry-run", "--no-sidecars").stdout
    assert not units.folder.exists()


def test_too_few_gpus_and_no_vllm(units: Units, tmp_path: Path) -> None:
    """Both are said before or as soon as anything is started, and nothing is left running."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA A30'\necho 'GPU 1: NVIDIA A30'\n")
    program.chmod(0o755)
    path = f"{folder}:/usr/bin:/bin"
    few = units.start(path=path)
    assert few.returncode == 1
    assert "2 units of 2 GPUs take 4; this host has 2" in few.stderr
    away = units.start("--tensor-parallel-size", "1", path=path)
    assert away.returncode == 1
    assert "The engine unit-1 cannot be started: vllm: No such file" in away.stderr
    assert units.start("--status").returncode == 1


def test_bad_options_are_named(units: Units) -> None:
    """A placeholder that means nothing, and numbers below one."""
    wrong = units.start("--command", "serve {prt}")
    assert wrong.returncode == 1
    assert "unknown placeholder {prt}" in wrong.stderr
    assert "--units" in units.start("--units", "0").stderr


def test_a_model_configuration_may_leave_out_what_is_known(units: Units, tmp_path: Path) -> None:
    """The source's four fields are enough, and what is added is said."""
    path = tmp_path / "model.json"
    fields = {"model_name": "Qwen/Qwen2.5-7B-Instruct", "max_batch_size": 48, "chunk_size": 512}
    path.write_text(json.dumps(fields | {"block_size": 16}))
    shown = units.start("--dry-run", "--model-config", str(path))
    assert "vllm serve Qwen/Qwen2.5-7B-Instruct " in shown.stdout
    assert "--max-model-len 32768 --max-num-seqs 48 --max-num-batched-tokens 512 " in shown.stdout
    assert "completed from the known architecture of Qwen/Qwen2.5-7B-Instruct" in shown.stderr
