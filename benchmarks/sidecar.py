"""Predictions a second of one sidecar on one core, over HTTP, one a call and 16 a call.

The engine it predicts has 48 running and 16 waiting requests and steps every 30 ms; each question
carries the list of those 64 requests, as a gateway's does. Sidecar on one core, load and engine on
another, where the system lets processes be pinned. Latencies are those of whole calls while the
sidecar is saturated; ``ready_s`` runs from the process's start to ``/ready`` with a warm cache of
compiled code, as after an installation.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import random
import statistics
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import uvloop

from benchmarks.full_engine import FullEngine, quantiles
from benchmarks.http_load import LoadResult, closed_loop
from benchmarks.processes import Child, free_port, pin
from wire.prediction import PredictBatchRequest, PredictRequest

NUM_RUNNING = 48
NUM_WAITING = 16
BATCH = 16
READY_DEADLINE_S = 120.0
MODEL_CONFIG = Path(__file__).parents[1] / "config" / "llama_config.json"


async def _ready_s(port: int, started_s: float) -> float:
    async with aiohttp.ClientSession() as session:
        while time.perf_counter() < started_s + READY_DEADLINE_S:
            try:
                async with session.get(f"http://127.0.0.1:{port}/ready") as response:
                    if response.status == 200:
                        return time.perf_counter() - started_s
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.01)
    raise TimeoutError(f"the sidecar on port {port} is not ready after {READY_DEADLINE_S} s")


def _bodies(
    engine: FullEngine, num_questions: int, *, cost_to_others: bool, has_quantiles: bool
) -> Callable[[], bytes]:
    """Questions that differ, with the list as of the engine's last step."""
    rng, numbers = random.Random(num_questions), itertools.count()

    def question() -> PredictRequest:
        output = rng.uniform(20, 900)
        return PredictRequest(
            request_id=f"q{next(numbers)}",
            num_prompt_tokens=rng.randint(20, 900),
            expected_output_tokens=None if has_quantiles else output,
            quantiles=quantiles(output) if has_quantiles else None,
        )

    def body() -> bytes:
        batch = PredictBatchRequest(
            requests=[question() for _ in range(num_questions)],
            sent=engine.sent,
            cost_to_others=cost_to_others,
        )
        return msgspec.json.encode(batch)

    return body


async def _load(
    port: int, bodies: Callable[[], bytes], connections: int, seconds: float
) -> LoadResult:
    result = await closed_loop(
        port, "/predict/batch", bodies, num_connections=connections, duration_s=seconds
    )
    if result.num_errors:
        failed = f"{result.num_errors} of {result.num_requests} calls failed"
        raise RuntimeError(f"{failed}; the first one: {result.first_error}")
    return result


def _p99_ms(result: LoadResult) -> float:
    return statistics.quantiles(result.latencies_s, n=100)[98] * 1e3


async def _round(port: int, engine: FullEngine, arguments: argparse.Namespace) -> dict[str, float]:
    figures: dict[str, float] = {}
    for name, size in (("single", 1), (f"batch{BATCH}", BATCH)):
        bodies = _bodies(
            engine,
            size,
            cost_to_others=not arguments.no_cost,
            has_quantiles=arguments.quantiles,
        )
        result = await _load(port, bodies, arguments.connections, arguments.seconds)
        figures[f"{name}_per_s"] = size * result.num_requests / result.duration_s
        figures[f"{name}_p99_ms"] = _p99_ms(result)
    return figures


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; the result is the JSON object that ``main`` prints."""
    cores = pin(os.getpid(), 0)
    engine_id, port = f"benchmark-{uuid.uuid4().hex}", free_port()
    engine = FullEngine(
        engine_id, NUM_RUNNING, NUM_WAITING, seed=0, has_quantiles=arguments.quantiles
    )
    command = [
        *(sys.executable, "-m", "predictor", "serve", f"--port={port}", "--gpu=A100-80G"),
        *(f"--model-config={MODEL_CONFIG}", f"--engine-id={engine_id}", "--state=plugin"),
        *("--log-level=warning", *arguments.options),
    ]
    engine.step()
    stepping = asyncio.ensure_future(engine.run())
    started_s = time.perf_counter()
    sidecar = Child(command)
    pin(sidecar.pid, 1)
    try:
        ready_s = await _ready_s(port, started_s)
        rounds = []
        for index in range(arguments.rounds):
            rounds.append(await _round(port, engine, arguments))
            print(f"round {index + 1}/{arguments.rounds}: {rounds[-1]}", file=sys.stderr)
        rss_mb = sidecar.rss_mb()
    finally:
        stepping.cancel()
        sidecar.stop()
        engine.close()
    figures = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
    return {
        "single_per_s": round(figures["single_per_s"]),
        "batch16_per_s": round(figures["batch16_per_s"]),
        "p99_ms": round(max(figures["single_p99_ms"], figures["batch16_p99_ms"]), 3),
        "rss_mb": round(rss_mb, 1),
        "ready_s": round(ready_s, 2),
        "single_p99_ms": round(figures["single_p99_ms"], 3),
        "batch16_p99_ms": round(figures["batch16_p99_ms"], 3),
        "cost_to_others": not arguments.no_cost,
        "quantiles": arguments.quantiles,
        "connections": arguments.connections,
        "rounds": arguments.rounds,
        "pinned": cores,
        "python": platform.python_version(),
    }


def main() -> None:
    """Parse arguments, measure, print one JSON line (and write it where asked)."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds to take medians over")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each load")
    parser.add_argument("--connections", type=int, default=2, help="calls in flight")
    parser.add_argument("--quantiles", action="store_true", help="ask with length distributions")
    parser.add_argument("--no-cost", action="store_true", help="leave out the cost to others")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    parser.add_argument("options", nargs="*", help="further options of the sidecar, after --")
    arguments = parser.parse_args()
    result = json.dumps(uvloop.run(measure(arguments)))
    if arguments.output:
        arguments.output.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
