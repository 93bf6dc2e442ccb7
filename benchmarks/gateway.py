"""What the gateway adds to an engine that answers at once.

Direct and through the gateway in turn, several rounds, medians; the gateway on a core of its own
where the system lets processes be pinned. Two ways of routing: ``round_robin`` (the data path
alone, the top-level figures) and ``min_new_request_latency`` with instant sidecars: under
``predictive`` with one prompt again and again, whose length estimate is remembered, under
``predictive_new_prompts`` with prompts that are all different.

``gateway_rps`` is the gateway's own only where nothing else takes its core: ``cores`` tells how
much of it it had. ``cpu_ms``, what a request has cost it, is less disturbed by others (Linux).

``--other NAME=COMMAND`` measures another router in the same rounds, on its core; ``{url}``
in the command is the engine's URL, ``{port}`` where it shall listen. For instance:

    --other "vllm-router=python -m vllm_router.launch_router --host 127.0.0.1 --port {port}
             --worker-urls {url} --policy round_robin --log-level warning"
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shlex
import statistics
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import uvloop

from benchmarks.http_load import LoadResult, closed_loop
from benchmarks.processes import Child, free_port, pin

BODY = json.dumps({"model": "instant", "prompt": "word " * 200, "max_tokens": 16}).encode()
STREAM_BODY = b'{"stream":true,' + BODY[1:]
PREDICTIVE, NEW_PROMPTS = "min_new_request_latency", "new prompts"
NUM_UNITS = 4
NUM_CONNECTIONS = 32


class NewPrompts:
    """As long as ``BODY``, and never the same twice."""

    def __init__(self, template: bytes) -> None:
        self._template = template
        self._count = 0

    def __call__(self) -> bytes:
        """The next body."""
        self._count += 1
        return self._template.replace(b"word word", b"%09d" % self._count, 1)


async def ready(port: int, num_units: int) -> None:
    """Wait until the gateway knows that its units are well."""
    deadline_s = time.monotonic() + 30
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s:
            try:
                async with session.get(f"http://127.0.0.1:{port}/health") as response:
                    if (await response.json())["healthy"] == num_units:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the gateway on port {port} is not ready")


async def _load(
    port: int, body: bytes | NewPrompts, num_connections: int, duration_s: float
) -> LoadResult:
    result = await closed_loop(
        port, "/v1/completions", body, num_connections=num_connections, duration_s=duration_s
    )
    if result.num_errors:
        raise RuntimeError(f"{result.num_errors} of {result.num_requests} requests failed")
    return result


async def _round(
    servers: dict[str, tuple[int, Child]],
    new_bodies: tuple[NewPrompts, NewPrompts],
    duration_s: float,
) -> dict[str, dict[str, float]]:
    figures: dict[str, dict[str, float]] = {}
    for name, (port, server) in servers.items():
        body, stream_body = new_bodies if name == NEW_PROMPTS else (BODY, STREAM_BODY)
        before_s = server.cpu_s()
        whole = await _load(port, body, NUM_CONNECTIONS, duration_s)
        cpu_s = server.cpu_s() - before_s
        alone = await _load(port, body, 1, duration_s)
        stream = await _load(port, stream_body, NUM_CONNECTIONS, duration_s)
        stream_alone = await _load(port, stream_body, 1, duration_s)
        figures[name] = {
            "rps": whole.num_requests / whole.duration_s,
            "cpu_ms": cpu_s / whole.num_requests * 1e3,
            "cores": cpu_s / whole.duration_s,
            "ms_p50_c1": statistics.median(alone.latencies_s) * 1e3,
            "chunks_per_s": stream.num_chunks / stream.duration_s,
            "ttft_ms_p50_c1": statistics.median(stream_alone.first_byte_s) * 1e3,
        }
    return figures


def _medians(rounds: list[dict[str, dict[str, float]]], name: str) -> dict[str, float]:
    keys = rounds[0][name]
    return {key: statistics.median(figures[name][key] for figures in rounds) for key in keys}


def _against(direct: dict[str, float], through: dict[str, float], rss_mb: float) -> dict[str, Any]:
    return {
        "direct_rps": round(direct["rps"]),
        "gateway_rps": round(through["rps"]),
        "cpu_ms": round(through["cpu_ms"], 3),
        "cores": round(through["cores"], 2),
        "added_ms_p50_c1": round(through["ms_p50_c1"] - direct["ms_p50_c1"], 3),
        "added_ttft_ms_p50_c1": round(through["ttft_ms_p50_c1"] - direct["ttft_ms_p50_c1"], 3),
        "direct_chunks_per_s": round(direct["chunks_per_s"]),
        "chunks_per_s": round(through["chunks_per_s"]),
        "rss_mb": round(rss_mb, 1),
    }


async def _answers(port: int) -> None:
    """Wait until a router of whatever kind answers."""
    deadline_s = time.monotonic() + 60
    url, headers = f"http://127.0.0.1:{port}/v1/completions", {"content-type": "application/json"}
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < deadline_s:
            with suppress(aiohttp.ClientError):
                async with session.post(url, data=BODY, headers=headers) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise TimeoutError(f"the router on port {port} is not ready")


def _gateway(port: int, policy: str, engine_url: str, num_workers: int) -> Child:
    units = [f"--unit=u{index}={engine_url},{engine_url}" for index in range(NUM_UNITS)]
    command = ["-m", "global_scheduler", f"--port={port}", f"--policy={policy}", *units]
    command += [f"--workers={num_workers}", "--log-level=warning"]
    child = Child([sys.executable, *command])
    if num_workers == 1:
        pin(child.pid, 1)
    return child


async def measure(
    num_rounds: int, duration_s: float, num_workers: int, others: dict[str, str]
) -> dict[str, Any]:
    """Run the benchmark; the result is the JSON object that ``main`` prints."""
    cores = pin(os.getpid(), 0)
    engine_port = free_port()
    engine = Child([sys.executable, "-m", "benchmarks.instant_engine", "--port", str(engine_port)])
    pin(engine.pid, 0)
    url = f"http://127.0.0.1:{engine_port}"
    gateways: dict[str, tuple[int, Child]] = {}
    try:
        for policy in ("round_robin", PREDICTIVE):
            port = free_port()
            gateways[policy] = (port, _gateway(port, policy, url, num_workers))
            await ready(port, NUM_UNITS)
        for name, command_line in others.items():
            port = free_port()
            child = Child(shlex.split(command_line.format(url=url, port=port)))
            gateways[name] = (port, child)
            pin(child.pid, 1)
            await _answers(port)
        gateways[NEW_PROMPTS] = gateways[PREDICTIVE]
        servers = {"direct": (engine_port, engine), **gateways}
        new_bodies = NewPrompts(BODY), NewPrompts(STREAM_BODY)
        rounds = []
        for index in range(num_rounds):
            rounds.append(await _round(servers, new_bodies, duration_s))
            print(f"round {index + 1}/{num_rounds}: {rounds[-1]}", file=sys.stderr)
        direct = _medians(rounds, "direct")
        results = {
            name: _against(direct, _medians(rounds, name), child.rss_mb())
            for name, (_, child) in gateways.items()
        }
    finally:
        for _, child in gateways.values():
            child.stop()
        engine.stop()
    return results["round_robin"] | {
        "predictive": results[PREDICTIVE],
        "predictive_new_prompts": results[NEW_PROMPTS],
        "others": {name: results[name] for name in others},
        "workers": num_workers,
        "connections": NUM_CONNECTIONS,
        "rounds": num_rounds,
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
    parser.add_argument(
        "--workers", type=int, default=1, help="the gateway's; several are not put on one core"
    )
    parser.add_argument("--other", action="append", default=[], help="another router to measure")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    arguments = parser.parse_args()
    others = dict(text.split("=", 1) for text in arguments.other)
    figures = uvloop.run(measure(arguments.rounds, arguments.seconds, arguments.workers, others))
    result = json.dumps(figures)
    if arguments.output:
        arguments.output.write_text(result + "\n")
    print(result)


if __name__ == "__main__":
    main()
