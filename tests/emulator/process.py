"""Starts the emulator as a process of its own on a free port, and stops it by process id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from predictor.errors import SnapshotTorn
from predictor.vllm_plugin.shared_memory import SnapshotReader
from wire.snapshot import EngineSnapshot

ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 240.0
MODEL = "test/tiny"

TINY_MODEL: dict[str, Any] = {
    "model_name": MODEL,
    "max_batch_size": 8,
    "chunk_size": 256,
    "block_size": 16,
    "max_model_len": 2048,
    "num_gpu_blocks": 256,
    "num_layers": 4,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_kv_heads": 8,
    "head_dim": 64,
    "vocab_size": 1000,
}
"""Steps of this model on an A30 take about 2 ms."""


@dataclass(frozen=True, slots=True)
class RunningEmulator:
    """A server that answers."""

    url: str
    process: subprocess.Popen[bytes]
    engine_id: str

    def get(self, path: str) -> str:
        """The text of a page."""
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            text: str = response.read().decode()
            return text

    def snapshot(self) -> EngineSnapshot:
        """The state that it exports now."""
        with contextlib.closing(SnapshotReader(self.engine_id)) as reader:
            while True:
                # A writer that has lost its core in the midst of a write stays there for long.
                with contextlib.suppress(SnapshotTorn):
                    payload = reader.read()
                    break
        return msgspec.msgpack.decode(payload, type=EngineSnapshot)

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        lines = self.get("/metrics").splitlines()
        samples = [line for line in lines if line.startswith((name + "{", name + " "))]
        assert samples, f"no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in samples)


@contextlib.contextmanager
def run_emulator(folder: Path, *options: str, **model_changes: Any) -> Iterator[RunningEmulator]:
    """An emulator that is ready; ended with SIGTERM afterwards."""
    config = folder / "tiny_config.json"
    config.write_text(json.dumps(TINY_MODEL | model_changes))
    port = free_port()
    engine_id = f"test-{os.getpid()}-{port}"
    command = [sys.executable, "-m", "exp.emulator", "--port", str(port)]
    command += ["--model-config", str(config), "--engine-id", engine_id, *options]
    with subprocess.Popen(command, cwd=ROOT, env=environment()) as process:
        emulator = RunningEmulator(f"http://127.0.0.1:{port}", process, engine_id)
        try:
            wait_until_healthy(emulator)
            yield emulator
        finally:
            process.send_signal(signal.SIGTERM)


def environment() -> dict[str, str]:
    """This process's environment, with the packages of the tree importable."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(emulator: RunningEmulator) -> None:
    """Until ``/health`` answers.

    Raises:
        TimeoutError: it does not in time, or the process has ended.
    """
    deadline = time.monotonic() + START_DEADLINE_S
    while emulator.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            emulator.get("/health")
            return
        time.sleep(0.05)
    raise TimeoutError(f"{emulator.url} does not answer, exit status {emulator.process.poll()}")
