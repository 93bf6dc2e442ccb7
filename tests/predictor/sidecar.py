"""A real sidecar process, and a real server that shows an engine's ``/metrics``."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec

from predictor.vllm_plugin.shared_memory import SnapshotWriter
from tests.predictor.engines import MODEL_PATH
from wire.snapshot import EngineSnapshot

START_DEADLINE_S = 240.0
"""The first one of all may have to compile the what-if."""
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Sidecar:
    """A running sidecar."""

    http: httpx.Client
    pid: int
    engine_id: str
    backend: str = "fast"

    def publish(self, snapshot: EngineSnapshot, age_s: float = 0.0) -> SnapshotWriter:
        """Be the sidecar's engine: write a snapshot so old, to be closed by the caller."""
        writer = SnapshotWriter(self.engine_id)
        now = msgspec.structs.replace(snapshot, time=time.time() - age_s)
        writer.write(msgspec.msgpack.encode(now))
        return writer

    def ask(self, **fields: object) -> httpx.Response:
        """``POST /predict`` a small question, with other fields than usual."""
        usual = {"request_id": "q", "num_prompt_tokens": 100, "expected_output_tokens": 20}
        return self.http.post("/predict", json=usual | fields)

    def ask_batch(self, *questions: object, **fields: object) -> list[dict[str, Any]]:
        """``POST /predict/batch``; the answers."""
        response = self.http.post("/predict/batch", json={"requests": questions} | fields)
        assert response.status_code == 200, response.text
        predictions: list[dict[str, Any]] = response.json()["predictions"]
        return predictions

    def error_of(self, response: httpx.Response) -> Any:
        """The inner object of an OpenAI error."""
        return response.json()["error"]

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Poll until something is so."""
        deadline = time.monotonic() + START_DEADLINE_S
        while not is_done():
            assert time.monotonic() < deadline, "it never happened"
            time.sleep(0.05)

    def metric(self, name: str) -> float:
        """Sum of a metric's samples of that name."""
        lines = self.http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@contextlib.contextmanager
def running_sidecar(
    engine_url: str, *options: str, engine_id: str | None = None, model_path: Path = MODEL_PATH
) -> Iterator[Sidecar]:
    """Start a sidecar on a free port, wait until its backend is loaded, and stop it in the end.

    Without an ``engine_id`` nobody exports state to it but the test.
    """
    port = free_port()
    engine_id = engine_id or f"test-{uuid.uuid4().hex}"
    command = [
        *(sys.executable, "-m", "predictor", "serve", "--port", str(port)),
        *("--engine-url", engine_url, "--engine-id", engine_id),
        *("--model-config", str(model_path), "--gpu", "A30", *options),
    ]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120.0) as client:
            sidecar = Sidecar(client, process.pid, engine_id)
            sidecar.wait_until(lambda: _backend_is_loaded(client, process))
            yield sidecar
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) in (0, -signal.SIGTERM)


def _backend_is_loaded(client: httpx.Client, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the sidecar ended by itself"
    try:
        ready = client.get("/ready")
    except httpx.ConnectError:
        return False
    return ready.status_code == 200 or "backend" not in json.dumps(ready.json())


@dataclass(slots=True)
class MetricsServer:
    """What an engine's HTTP server shows; None makes it answer 500."""

    page: str | None = None
    url: str = field(default="", init=False)


@contextlib.contextmanager
def metrics_server() -> Iterator[MetricsServer]:
    """Serve a page at ``/metrics``."""
    shown = MetricsServer()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = (shown.page or "broken").encode()
            self.send_response(500 if shown.page is None else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Tests need no access log."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    shown.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def metrics_page(
    num_running: int = 0,
    num_waiting: int = 0,
    kv_usage: float = 0.0,
    engine: int = 0,
    with_help: bool = True,
) -> str:
    """A page with vLLM's names."""
    label = f'engine="{engine}"'
    samples: Mapping[str, tuple[str, str]] = {
        "num_requests_running": ("gauge", f"{{{label}}} {num_running}.0"),
        "num_requests_waiting": ("gauge", f"{{{label}}} {num_waiting}.0"),
        "kv_cache_usage_perc": ("gauge", f"{{{label}}} {kv_usage}"),
        "num_preemptions_total": ("counter", f"{{{label}}} 7.0"),
        "cache_config_info": (
            "gauge",
            f'{{block_size="16",num_gpu_blocks="800",{label}}} 1.0',
        ),
    }
    lines = []
    for name, (kind, sample) in samples.items():
        if with_help:
            lines.append(f"# TYPE vllm:{name} {kind}")
        lines.append(f"vllm:{name}{sample}")
    return "\n".join(lines) + "\n"
