"""Many paced streams through the gateway: gaps between chunks, and memory over time.

Engines send an event every ``--gap-ms`` on each stream, as a busy GPU does; a stream has 64. The
gateway has core 1 to itself where it can be pinned and has one process (``--workers 1``). Engines
and client are Python's and share core 0: with more than about 500 streams at 20 ms it is they that
are late. For a soak: ``--streams 1000 --gap-ms 100 --seconds 600``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
from typing import Any

import uvloop

from benchmarks.gateway import BODY, NUM_UNITS, ready
from benchmarks.http_load import LoadResult, closed_loop
from benchmarks.processes import Child, free_port, pin

STREAM_BODY = b'{"stream":true,' + BODY[1:]
SAMPLE_S = 2.0
WARM_UP_SHARE = 0.2
"""Of the samples of memory, left out of the slope: what a first burst takes is kept."""
NO_LIMIT = "100000"


async def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the benchmark; the result is the JSON object that ``main`` prints."""
    pin(os.getpid(), 0)
    engine_port, port = free_port(), free_port()
    gap = f"--gap-ms={arguments.gap_ms}"
    engine = Child(
        [sys.executable, "-m", "benchmarks.instant_engine", f"--port={engine_port}", gap]
    )
    pin(engine.pid, 0)
    url = f"http://127.0.0.1:{engine_port}"
    units = [f"--unit=u{index}={url}" for index in range(NUM_UNITS)]
    command = [sys.executable, "-m", "global_scheduler", f"--port={port}", "--log-level=warning"]
    command += ["--policy=round_robin", f"--workers={arguments.workers}", *units]
    gateway = Child([*command, f"--worker-concurrency-limit={NO_LIMIT}"])
    is_pinned = arguments.workers == 1 and pin(gateway.pid, 1)
    try:
        await ready(port, NUM_UNITS)
        load = asyncio.ensure_future(_load(port, arguments))
        memory = [(0.0, gateway.rss_mb())]
        started_s = time.monotonic()
        while not load.done():
            await asyncio.wait([load], timeout=SAMPLE_S)
            memory.append((time.monotonic() - started_s, gateway.rss_mb()))
        result = await load
    finally:
        gateway.stop()
        engine.stop()
    return _figures(result, memory) | {
        "streams": arguments.streams,
        "gap_ms": arguments.gap_ms,
        "workers": arguments.workers,
        "pinned": is_pinned,
    }


async def _load(port: int, arguments: argparse.Namespace) -> LoadResult:
    return await closed_loop(
        port,
        "/v1/completions",
        STREAM_BODY,
        num_connections=arguments.streams,
        duration_s=arguments.seconds,
        stagger_s=64 * arguments.gap_ms / 1e3,
        with_gaps=arguments.seconds <= 60,
    )


def _figures(result: LoadResult, memory: list[tuple[float, float]]) -> dict[str, Any]:
    settled = memory[int(len(memory) * WARM_UP_SHARE) :]
    slope = statistics.linear_regression(*zip(*settled, strict=True)).slope
    figures: dict[str, Any] = {
        "requests": result.num_requests,
        "errors": result.num_errors,
        "first_error": result.first_error,
        "chunks_per_s": round(result.num_chunks / result.duration_s),
        "ttft_ms_p50": round(statistics.median(result.first_byte_s) * 1e3, 2),
        "rss_mb_first": round(memory[0][1], 1),
        "rss_mb_last": round(memory[-1][1], 1),
        "rss_mb_per_minute": round(slope * 60, 3),
    }
    if result.gaps_s:
        percentiles = statistics.quantiles(result.gaps_s, n=100)
        figures |= {
            "gap_ms_p50": round(percentiles[49] * 1e3, 2),
            "gap_ms_p99": round(percentiles[98] * 1e3, 2),
        }
    return figures


def main() -> None:
    """Parse arguments, measure, print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--gap-ms", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=10.0, help="no stream begins after that")
    parser.add_argument("--workers", type=int, default=1)
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
