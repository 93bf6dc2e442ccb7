"""What the vLLM plug-in costs a step: ``.venv-vllm/bin/python -m benchmarks.plugin``.

Drives vLLM's real scheduler offline with some requests running and some waiting, and prints one
JSON object. ``schedule_us`` and ``update_us`` are the time spent in the plug-in's own code after
each of the two calls; ``step_us`` is their sum.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

PLUGIN = "predictor.vllm_plugin.scheduler.AstrolabeScheduler"
MODEL_DIR = Path(".astrolabe/models/SmolLM2-135M-Instruct")


class Stopwatch:
    """Times each call of a function."""

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self.times_us: list[float] = []

    def __call__(self, *args: Any) -> None:
        """Call the function."""
        started = time.perf_counter()
        self._function(*args)
        self.times_us.append((time.perf_counter() - started) * 1e6)


def measure(num_running: int, num_waiting: int, num_steps: int, is_async: bool) -> dict[str, Any]:
    """Per-step costs in microseconds, and the size of a snapshot in bytes."""
    from exp.vllm_cpu.offline import AMPLE, OfflineEngine
    from predictor.vllm_plugin.shared_memory import SnapshotReader

    limits = msgspec.structs.replace(
        AMPLE, async_scheduling=is_async, max_num_seqs=num_running, num_gpu_blocks=8191
    )
    engine = OfflineEngine(PLUGIN, MODEL_DIR, limits)
    rng = random.Random(0)
    for index in range(num_running + num_waiting):
        prompt = [rng.randrange(10_000) for _ in range(rng.randrange(100, 500))]
        engine.add(f"cmpl-{rng.randbytes(16).hex()}-0-{index:08x}", prompt, max_tokens=1500)
    observer = engine.scheduler._astrolabe
    while len(engine.scheduler.running) < num_running:
        engine.step()
    observer.scheduled = scheduled = Stopwatch(observer.scheduled)
    observer.updated = updated = Stopwatch(observer.updated)
    if is_async:
        engine.schedule()
    for _ in range(num_steps):
        engine.step()
    reader = SnapshotReader(os.environ["ASTROLABE_ENGINE_ID"])
    num_bytes = len(reader.read())
    reader.close()
    engine.scheduler.shutdown()
    steps = [sum(pair) for pair in zip(scheduled.times_us, updated.times_us, strict=False)]
    return {
        "num_running": num_running,
        "num_waiting": num_waiting,
        "async_scheduling": is_async,
        **percentiles("schedule_us", scheduled.times_us),
        **percentiles("update_us", updated.times_us),
        **percentiles("step_us", steps),
        "bytes": num_bytes,
    }


def percentiles(name: str, values: list[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    cuts = statistics.quantiles(values, n=100)
    return {f"{name}_p50": round(cuts[49], 1), f"{name}_p99": round(cuts[98], 1)}


def main() -> None:
    """Measure once and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, default=32)
    parser.add_argument("--waiting", type=int, default=8)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--async-scheduling", action="store_true")
    args = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        sys.exit("vLLM is not installed here; run this with .venv-vllm/bin/python")
    os.environ["ASTROLABE_ENGINE_ID"] = f"benchmark-{os.getpid()}"
    result = measure(args.running, args.waiting, args.steps, args.async_scheduling)
    print(msgspec.json.encode(result).decode())


if __name__ == "__main__":
    main()
