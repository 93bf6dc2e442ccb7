"""Benchmarks run and print the figures that the documentation quotes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def last_line(*arguments: str) -> dict[str, float]:
    """The JSON object on the last line of a benchmark's output."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def test_the_gateway_benchmark_prints_its_figures() -> None:
    """Short rounds: the figures are there and make sense, whatever the machine."""
    figures = last_line("benchmarks.gateway", "--rounds", "1", "--seconds", "0.3")
    assert figures["direct_rps"] > figures["gateway_rps"] > 0
    assert figures["added_ms_p50_c1"] > 0
    assert figures["chunks_per_s"] > 0
    assert figures["rss_mb"] > 0
    assert 0 < figures["cores"] < 1.1
    assert figures["cpu_ms"] > 0


def test_the_benchmark_of_streams_prints_its_figures() -> None:
    """A few streams through two workers: no error, gaps as the engine makes them."""
    figures = last_line(
        *("benchmarks.gateway_streams", "--streams", "8", "--gap-ms", "5"),
        *("--seconds", "1", "--workers", "2"),
    )
    assert figures["errors"] == 0
    assert figures["chunks_per_s"] > 0
    assert figures["gap_ms_p99"] >= figures["gap_ms_p50"] > 1
    assert figures["rss_mb_last"] > 0


def test_the_fleet_benchmark_prints_its_figures() -> None:
    """A small fleet and few requests: all answered, errors and the share of best units known."""
    figures = last_line("benchmarks.e2e", "--units", "2", "--requests", "6", "--rate", "4")
    assert figures["requests"] == 6
    assert figures["failed"] == 0
    assert figures["ttft_mape"] >= 0
    assert figures["e2e_mape"] >= 0
    assert 0 <= figures["best_unit_share"] <= 1


def test_the_sidecar_benchmark_prints_its_figures() -> None:
    """Short loads: all questions answered, a batch cheaper than its questions one by one."""
    figures = last_line("benchmarks.sidecar", "--rounds", "1", "--seconds", "0.3")
    assert figures["batch16_per_s"] > figures["single_per_s"] > 0
    assert figures["p99_ms"] > 0
    assert figures["rss_mb"] > 0
    assert figures["ready_s"] > 0
