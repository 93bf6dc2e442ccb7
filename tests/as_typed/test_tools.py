"""The README's tools, beside the fleet of its first command."""

from __future__ import annotations

import csv
import json

import pytest

from tests.as_typed.claims import types
from tests.as_typed.shell import Shell

FLEET = "bash exp/setup.sh --units 2 --speed 20 --requests 0"


@pytest.mark.slow
@types(
    "python -m exp.workload_gen",
    "python -m exp.benchmark.benchmark_serving",
    "python -m exp.monitor_vllm",
    "python -m analysis.monitor_plot",
    "python -m exp.micro_bench",
)
def test_tools_beside_a_running_fleet(shell: Shell) -> None:
    """A trace is made and sent, the fleet is watched and drawn, and a unit's limit is measured."""
    shell.run(FLEET)
    assert "written to .astrolabe/trace.jsonl" in shell.type("python -m exp.workload_gen").out
    assert len((shell.checkout / ".astrolabe/trace.jsonl").read_text().splitlines()) > 100
    sent = shell.type_instead(
        "python -m exp.benchmark.benchmark_serving",
        "python -m exp.benchmark.benchmark_serving --num-prompts 20 --request-rate 20",
        because="its default is 1,000 prompts as fast as they are answered",
    )
    assert "20 ok, 0 rejected, 0 failed, 0 lost" in sent.out
    shell.type_instead(
        "python -m exp.monitor_vllm",
        "python -m exp.monitor_vllm --duration 2",
        because="it goes on until Ctrl-C",
    )
    with (shell.checkout / ".astrolabe/monitor.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["unit"] for row in rows} >= {"unit-1", "unit-2"}
    shell.type("python -m analysis.monitor_plot")
    assert (shell.checkout / ".astrolabe/monitor.png").stat().st_size > 10_000
    measured = shell.type_instead(
        "python -m exp.micro_bench",
        "python -m exp.micro_bench --url http://127.0.0.1:8001 --seconds 1 --max-concurrency 4",
        because="the server is for the user to name, and ten seconds a level are for real ones",
    )
    assert json.loads(measured.out.splitlines()[-1])["best"] in (1, 2, 4)


@types("python -m benchmarks.twin")
def test_the_benchmark_of_the_twin(shell: Shell) -> None:
    """Few requests: it prints what it is asked for."""
    printed = shell.type_instead(
        "python -m benchmarks.twin",
        "python -m benchmarks.twin --requests 100 --systems round_robin",
        because="10,000 requests to three systems take minutes",
    ).out
    assert "round_robin" in printed


@pytest.mark.vllm
@types(".venv-vllm/bin/python -m benchmarks.plugin")
def test_the_benchmark_of_the_plug_in(shell: Shell) -> None:
    """Few steps of vLLM's real scheduler: it prints what the plug-in has cost them."""
    printed = shell.type_instead(
        ".venv-vllm/bin/python -m benchmarks.plugin",
        ".venv-vllm/bin/python -m benchmarks.plugin --steps 50",
        because="fewer steps do to see that it measures",
    ).out
    assert json.loads(printed.splitlines()[-1])["step_us_p50"]


@types("pip install .", "pip install --no-deps .", "python -m predictor compile")
def test_installing_beside_vllm(open_shell: Shell) -> None:
    """What is installed is whole: sidecar, gateway with its page, the estimator with its model."""
    folder = open_shell.home / "site"
    for command in ("pip install .", "pip install --no-deps ."):
        where = f" --target {folder}" if "--no-deps" in command else " --dry-run"
        open_shell.type_instead(
            command,
            command.replace("install", f"install --quiet --disable-pip-version-check{where}"),
            because="the environment is that of the tests, and stays as it is",
        )
    for file in ("global_scheduler/dashboard.html", "length_estimation/default/model.onnx"):
        assert (folder / file).exists()
    assert "compiling the what-if" in open_shell.type("python -m predictor compile").out
