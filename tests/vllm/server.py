"""A real vLLM server, started for a test and stopped by process group."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from exp.vllm_cpu.command import vllm_command
from predictor.vllm_plugin.shared_memory import snapshot_path
from tests.vllm.environment import MODEL_DIR, quiet_environment, vllm_python

START_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Server:
    """A running vLLM server."""

    url: str
    engine_id: str
    snapshot_url: str


@contextmanager
def running_server(folder: Path, kv_cache_bytes: int, **options: Any) -> Iterator[Server]:
    """A server with the plug-in that logs into ``folder``; ``options`` are ``vllm_command``'s."""
    port, snapshot_port = _free_port(), _free_port()
    engine_id = f"test-{uuid.uuid4().hex}"
    command = vllm_command(
        vllm_python(), MODEL_DIR, port, engine_id, kv_cache_bytes=kv_cache_bytes, **options
    )
    env = command.full_env(quiet_environment())
    env["ASTROLABE_SNAPSHOT_LISTEN"] = f"127.0.0.1:{snapshot_port}"
    log_path = folder / "server.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command.argv, env=env, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait_until_open(process, port, log_path)
        yield Server(
            f"http://127.0.0.1:{port}", engine_id, f"http://127.0.0.1:{snapshot_port}/snapshot"
        )
    finally:
        _stop(process)
        snapshot_path(engine_id).unlink(missing_ok=True)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log_path: Path) -> None:
    """Until the port is open, which vLLM's is when it can serve."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"vLLM did not start:\n{log_path.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
