"""vLLM's own benchmark against the gateway, and our figures against those that it makes."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from exp.benchmark.vllm_results import detailed, vllm_result
from exp.fleet.display import SilentDisplay
from exp.fleet.local import emulated_plan
from exp.fleet.temporary import free_port_offset, temporary_fleet
from exp.workloads.replay import Sent
from tests.vllm.environment import MODEL_DIR, ROOT, quiet_environment, vllm_python

pytestmark = pytest.mark.vllm
LISTS = ("input_lens", "output_lens", "ttfts", "itls", "latencies", "start_times", "queue_times")
GOAL_MS = 8.0
ENDPOINTS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[str]:
    """Of two emulated engines, twenty times as fast as an A30."""
    plan = emulated_plan(2, 20.0, free_port_offset(2, random.Random()))
    with temporary_fleet(plan, SilentDisplay()) as url:
        yield url


@pytest.fixture(scope="module")
def results(gateway: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM's benchmark says of completions and of chats, by its names; both run at a time."""
    folder = tmp_path_factory.mktemp("results")
    running = {
        backend: subprocess.Popen(
            [*_command(gateway, folder, backend), "--endpoint", endpoint],
            cwd=ROOT,
            env=quiet_environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend, endpoint in ENDPOINTS.items()
    }
    found = {}
    for backend, process in running.items():
        _, said = process.communicate(timeout=600)
        assert process.returncode == 0, said[-3000:]
        found[backend] = json.loads((folder / f"{backend}.json").read_bytes())
    return found


def _command(gateway: str, folder: Path, backend: str) -> list[str]:
    command = [str(vllm_python()), "-m", "exp.vllm_cpu.bench_serve"]
    command += ["--backend", backend, "--base-url", gateway]
    command += ["--model", "meta-llama/Llama-2-7b-hf", "--tokenizer", str(MODEL_DIR)]
    command += ["--dataset-name", "random", "--random-input-len", "100"]
    command += ["--random-output-len", "20", "--ignore-eos", "--num-prompts", "40"]
    command += ["--request-rate", "40", "--goodput", f"ttft:{GOAL_MS}"]
    command += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "90,99"]
    command += ["--save-detailed", "--save-result"]
    return [*command, "--result-dir", str(folder), "--result-filename", f"{backend}.json"]


@pytest.mark.parametrize("backend", ENDPOINTS)
def test_vllms_benchmark_runs_against_the_gateway(
    results: dict[str, dict[str, Any]], backend: str
) -> None:
    """Every request is answered as long as asked, and from the same times we make its figures."""
    theirs = results[backend]
    assert (theirs["completed"], theirs["failed"]) == (40, 0)
    assert theirs["output_lens"] == [20] * 40
    sent = [_sent(theirs, index) for index in range(40)]
    ours = vllm_result(sent, theirs["duration"], (90.0, 99.0), has_goals=True)
    assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=1e-6)
    assert set(detailed(sent)) <= set(theirs)


def _sent(result: dict[str, Any], index: int) -> Sent:
    """A request as vLLM's benchmark saw it."""
    of = {name: result[name][index] for name in LISTS}
    itl_ms = [gap_s * 1e3 for gap_s in of["itls"]]
    ttft_ms, e2e_ms = of["ttfts"] * 1e3, of["latencies"] * 1e3
    return Sent(
        index=index,
        request_id=str(index),
        request_class="short",
        at_s=of["start_times"],
        late_ms=0.0,
        outcome="ok",
        status=200,
        error=None,
        unit=None,
        num_prompt_tokens=of["input_lens"],
        num_output_tokens=of["output_lens"],
        ttft_ms=ttft_ms,
        tpot_ms=(e2e_ms - ttft_ms) / (of["output_lens"] - 1),
        e2e_ms=e2e_ms,
        itl_ms=itl_ms,
        is_good=ttft_ms <= GOAL_MS,
    )
