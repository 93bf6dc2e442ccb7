"""The vLLM on hosts: too old, missing, or installed by the deployment."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from exp.fleet.hosts import host_plans
from exp.fleet.vllm import engine_programs
from exp.manifest import DEFAULT_VLLM_COMMAND
from predictor.vllm_plugin import TESTED_VLLM
from tests.deploy.cluster import PROJECT, Cluster
from tests.deploy.vllm_stand_in import program, wheel
from wire.host_config import HostConfigs

PLUGIN = "--scheduler-cls predictor.vllm_plugin.scheduler.AstrolabeScheduler"


def test_an_old_vllm_is_found_before_anything_is_changed(cluster: Cluster) -> None:
    """The host, what it has and what is wanted are named; nothing is copied or started."""
    old = program(cluster.folder / "old", "0.19.1")
    new = program(cluster.folder / "new", "0.20.0rc1")
    cluster.nodes[0]["vllm_command"] = f"{new} serve {PLUGIN}"
    cluster.nodes[1]["vllm_command"] = f"{old} serve {PLUGIN}"
    deployed = cluster.setup()
    assert deployed.returncode == 1
    assert "vllm failed on 1 of 2 hosts" in deployed.stderr
    assert f"localhost: vLLM 0.19.1 at {old} is too old" in deployed.stderr
    assert "takes 0.20 or later" in deployed.stderr
    assert f"--install-vllm, which installs {TESTED_VLLM}" in deployed.stderr
    assert not (cluster.folder / "host-0").exists()


@pytest.mark.parametrize(
    "words", [f"{sys.executable} -m vllm.entrypoints.x", "/nowhere/vllm serve"]
)
def test_a_missing_vllm_is_found_before_anything_is_changed(cluster: Cluster, words: str) -> None:
    """Whether the program is missing or its Python has no vLLM."""
    cluster.nodes[1]["vllm_command"] = f"{words} {PLUGIN}"
    deployed = cluster.setup()
    assert deployed.returncode == 1
    assert "localhost: vLLM is not installed" in deployed.stderr
    assert words.split()[0] in deployed.stderr
    assert not (cluster.folder / "host-0").exists()


def test_vllm_is_installed_in_an_environment_of_its_own(cluster: Cluster) -> None:
    """The engines run it, whatever else is called vllm on the host; again, nothing is installed."""
    wheel(cluster.folder)
    for node in cluster.nodes:
        node["vllm_command"] = DEFAULT_VLLM_COMMAND
    del cluster.nodes[1:]
    cluster.with_compiled_code()
    pip_args = f"--pip-args=--no-index --find-links {cluster.folder}"
    deployed = cluster.setup("--install-vllm", pip_args, "--start-timeout", "400")
    assert deployed.returncode == 0, deployed.stderr
    assert cluster.setup("--status").stdout.count(" healthy ") == 3
    stamp = Path(cluster.nodes[0]["install_dir"], ".venv-vllm/astrolabe-installed")
    installed_at = stamp.stat().st_mtime_ns
    again = cluster.setup("--install-vllm", "--pip-args=--no-index")
    assert again.returncode == 0, again.stderr
    assert stamp.stat().st_mtime_ns == installed_at


def test_vllm_is_not_installed_where_engines_would_run_another(cluster: Cluster) -> None:
    """Before anything is done the host and what its engines run are named."""
    cluster.nodes[1]["vllm_command"] = f"/opt/vllm serve {PLUGIN}"
    refused = cluster.setup("--install-vllm", "--dry-run")
    assert refused.returncode == 1
    assert (
        "localhost: --install-vllm is for a vllm_command that starts with `vllm`" in refused.stderr
    )
    assert "/opt/vllm" in refused.stderr


@pytest.mark.parametrize(
    ("command", "programs"),
    [
        (DEFAULT_VLLM_COMMAND, ["vllm"]),
        (f"env A=1 /opt/bin/vllm serve {PLUGIN}", ["/opt/bin/vllm"]),
        (f"python3 -m vllm.entrypoints.openai.api_server {PLUGIN}", ["python3"]),
        ("vllm serve without-the-plug-in", []),
        (f"docker run vllm/vllm-openai {PLUGIN}", []),
        (None, []),
    ],
)
def test_what_is_looked_at(command: str | None, programs: list[str]) -> None:
    """The program that runs vLLM with the plug-in, where a command shows it."""
    node = {"hostname": "a", "gpu_type": "A30", "num_gpus": 2, "vllm_command": command}
    (plan,) = host_plans(HostConfigs.model_validate({"nodes": [node]}), PROJECT)
    assert engine_programs(plan) == programs
