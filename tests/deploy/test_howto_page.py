"""``docs/howto/deploy_on_hosts.md``: its commands, as they stand, deploy on hosts."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from exp.fleet.bundle import project_files
from exp.manifest import load_manifest
from predictor.vllm_plugin import TESTED_VLLM
from tests.deploy.cluster import PROJECT, Cluster
from tests.deploy.vllm_stand_in import program

PAGE = PROJECT / "docs/howto/deploy_on_hosts.md"
HF_TOKEN = "hf_of-the-page"
TIMEOUT_S = 800.0


def blocks(language: str) -> list[str]:
    """The page's fenced blocks in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)


def make_checkout(folder: Path) -> Path:
    """A copy of the project in which everything counts as installed."""
    made = folder / "astrolabe"
    for path in project_files(PROJECT):
        (made / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(PROJECT / path, made / path)  # with its times, by which compiled code goes
    (made / ".venv/bin").mkdir(parents=True)
    python = made / ".venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    # What exp/setup.sh itself would note down after it had installed.
    functions = "source <(sed -n '/^check()/,/^}/p; /^kernel()/,/^}/p' exp/setup.sh)"
    notes = "check >.venv/installed-exp && kernel >.venv/compiled"
    subprocess.run(["bash", "-c", f"{functions}; extras=exp; {notes}"], cwd=made, check=True)
    return made


def manifest_of(cluster: Cluster) -> dict[str, Any]:
    """The cluster's hosts as people write them down, each with a vLLM of the wanted version."""
    kept = ("hostname", "ssh_port", "identity_file", "install_dir", "python", "gpu_type")
    ports = ("num_gpus", "vllm_port", "predictor_port")
    nodes = [{key: node[key] for key in (*kept, *ports)} for node in cluster.nodes]
    for node in nodes:
        made = program(Path(node["install_dir"], "stand-in"), TESTED_VLLM)
        (made.parent.parent / ".venv-vllm").mkdir()
        (made.parent.parent / ".venv-vllm/bin").symlink_to(made.parent)
    scheduler = {"hostname": nodes[0]["hostname"], "port": cluster.configs["scheduler"]["port"]}
    return {"nodes": [{**node, "model": "llama"} for node in nodes], "scheduler": scheduler}


def make_home(cluster: Cluster) -> Path:
    """A user's home where ``ssh`` knows the server, and ``node1`` is the cluster's gateway."""
    home = cluster.folder / "home"
    (home / "bin").mkdir(parents=True)
    ssh = home / "bin/ssh"
    config = shlex.quote(str(cluster.server.client_config))
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
    ssh.chmod(0o755)
    port = cluster.configs["scheduler"]["port"]
    (home / ".curlrc").write_text(f'connect-to = "node1:8200:127.0.0.1:{port}"\n')
    return home


def test_the_page_deploys_uses_and_stops_a_fleet(cluster: Cluster) -> None:
    """All ``bash`` blocks run in one shell; only the hosts in the manifest are others."""
    checkout, home = make_checkout(cluster.folder), make_home(cluster)
    # The page starts from the example and leaves it to the reader to put hosts into the copy.
    (checkout / "config/cluster_example.yaml").write_text(yaml.safe_dump(manifest_of(cluster)))
    cluster.with_compiled_code()
    env = {**cluster.full_env(), "HOME": str(home), "PATH": f"{home}/bin:{os.environ['PATH']}"}
    script = "\n".join(["set -euo pipefail", *blocks("bash")])
    ran = subprocess.run(
        ["bash", "-c", script],
        cwd=checkout,
        env={**env, "USER": cluster.server.user, "HF_TOKEN": HF_TOKEN},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "wrote config/host_configs.json" in ran.stdout
    assert "HF_TOKEN for the engine, from the environment's HF_TOKEN" in ran.stdout
    assert HF_TOKEN not in ran.stdout
    assert re.search(r"^  vllm +127\.0\.0\.1 localhost$", ran.stdout, re.M)
    assert ran.stdout.count(" healthy ") == 5
    assert '"completion_tokens"' in ran.stdout
    assert '"name":"localhost-1"' in ran.stdout
    assert ran.stdout.count("stopped ") == 5
    assert cluster.all_is_free()
    assert (home / "astrolabe-admin-token").stat().st_mode & 0o077 == 0


def test_the_manifest_that_the_page_shows_is_one(tmp_path: Path) -> None:
    """Its keys and models are known."""
    (shown,) = blocks("yaml")
    path = tmp_path / "cluster.yaml"
    path.write_text(shown)
    assert [node.hostname for node in load_manifest(path).nodes] == ["node1", "node2"]
    command = [sys.executable, "exp/generate_config.py", "--manifest", str(path)]
    command += ["--output", str(tmp_path / "hosts.json")]
    subprocess.run(command, cwd=PROJECT, check=True, timeout=240, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize("promised", [f"vLLM {TESTED_VLLM}", "vLLM 0.20 or later"])
def test_versions_are_those_of_the_code(promised: str) -> None:
    """What is looked for and what is installed."""
    assert promised in PAGE.read_text()
