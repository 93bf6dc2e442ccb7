"""From a list of hosts to what would be done on them. ``tests/deploy/`` does it."""

from __future__ import annotations

import json

from tests.as_typed.claims import types
from tests.as_typed.shell import Shell

GENERATE = (
    ".venv/bin/python exp/generate_config.py --manifest config/cluster_example.yaml --username me"
)
SOURCE_GENERATE = "python astrolabe/exp/generate_config.py --username YOUR_SSH_USERNAME"
DRY_RUN = "bash exp/setup.sh --hosts config/host_configs.json --dry-run"


@types(GENERATE, DRY_RUN)
def test_the_readmes_manifest(shell: Shell) -> None:
    """It becomes a host file, and the dry run of that names every host and runs nothing."""
    file = shell.checkout / "config/host_configs.json"
    before = file.read_text()
    try:
        assert "config/host_configs.json" in shell.type(GENERATE).out
        hosts = [node["hostname"] for node in json.loads(file.read_text())["nodes"]]
        assert hosts == ["node1", "node2"]
        printed = shell.type(DRY_RUN).out
    finally:
        file.write_text(before)
    assert all(f"@{host}" in printed for host in hosts)
    for words in ('"vllm", "serve"', '"predictor", "serve"', '"global_scheduler"'):
        assert words in printed


@types(SOURCE_GENERATE)
def test_the_sources_command_without_a_manifest(shell: Shell) -> None:
    """The first time it writes an example to edit and says so; the second time it takes it."""
    manifest = shell.checkout / "config/cluster.yaml"
    hosts = shell.checkout / "config/host_configs.json"
    before = hosts.read_text()
    try:
        first = shell.type(SOURCE_GENERATE, above=True, status=1)
        assert "cluster.yaml" in first.said
        assert "nodes:" in manifest.read_text()
        second = shell.type(SOURCE_GENERATE, above=True)
        assert "host_configs.json" in second.out
        users = {node["user"] for node in json.loads(hosts.read_text())["nodes"]}
        assert users == {"YOUR_SSH_USERNAME"}
    finally:
        manifest.unlink(missing_ok=True)
        hosts.write_text(before)
