"""A cluster of hosts on loopback, behind a real sshd."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exp.fleet.health import is_port_free
from exp.fleet.state import Store
from tests.deploy.ports import free_ports
from tests.deploy.sshd import SshServer

PROJECT = Path(__file__).parents[2]
EMULATOR = (
    "{python} -m exp.emulator --port {port} --model-config {model_config} --gpu {gpu_type}"
    " --engine-id {engine_id} --speed 50"
)


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two hosts on loopback, each with an installation folder of its own."""

    folder: Path
    server: SshServer
    configs: dict[str, Any]
    env: dict[str, str] = field(default_factory=dict)
    """Of the deploying machine, beside this process's own; to be changed by a test."""

    def command(self, *options: str) -> list[str]:
        """What ``exp/setup.sh`` runs once it has installed."""
        hosts = self.folder / "hosts.json"
        hosts.write_text(json.dumps(self.configs))
        command = [sys.executable, "-m", "exp.fleet", "--hosts", str(hosts)]
        return [*command, "--ssh-config", str(self.server.client_config), *options]

    def setup(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        command = self.command(*options)
        return subprocess.run(
            command,
            cwd=PROJECT,
            env=self.full_env(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def full_env(self) -> Mapping[str, str]:
        """What the deploying process gets; none of this process's own tokens."""
        tokens = ("HF_TOKEN", "ASTROLABE_GATEWAY_ADMIN_TOKEN")
        return {key: os.environ[key] for key in os.environ if key not in tokens} | self.env

    def with_compiled_code(self) -> None:
        """Put this checkout's compiled what-if where the hosts' sidecars look for theirs.

        It is as old as the sources, which keep their times on the way. Compiling takes a minute on
        a busy machine, on each host.
        """
        for compiled in (PROJECT / "predictor").rglob("*.nb[ci]"):
            for node in self.nodes:
                copy = Path(node["install_dir"], compiled.relative_to(PROJECT))
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(compiled, copy)

    def ports(self) -> list[int]:
        """All ports that the fleet listens on."""
        nodes = self.configs["nodes"]
        unit_ports = [node[key] for node in nodes for key in ("vllm_port", "predictor_port")]
        return [*unit_ports, self.configs["scheduler"]["port"]]

    def all_is_free(self) -> bool:
        """Whether nothing listens and no host has a record of anything running."""
        stores = [Store(Path(node["install_dir"], ".astrolabe/fleet")) for node in self.nodes]
        return all(map(is_port_free, self.ports())) and not any(s.try_load() for s in stores)

    @property
    def nodes(self) -> list[dict[str, Any]]:
        """The nodes, to be changed by a test."""
        nodes: list[dict[str, Any]] = self.configs["nodes"]
        return nodes


def two_hosts(folder: Path, server: SshServer) -> dict[str, Any]:
    """A cluster file for 127.0.0.1 and localhost as two hosts with an emulator each."""
    ports = free_ports(5)
    names = ("127.0.0.1", "localhost")
    nodes = [
        {
            "hostname": name,
            "user": server.user,
            "ssh_port": server.port,
            "identity_file": str(server.identity_file),
            "install_dir": str(folder / f"host-{index}"),
            "python": sys.executable,
            "gpu_type": "A30",
            "num_gpus": 1,
            "vllm_port": ports[2 * index],
            "predictor_port": ports[2 * index + 1],
            "vllm_command": EMULATOR,
        }
        for index, name in enumerate(names)
    ]
    return {"nodes": nodes, "bind_address": "127.0.0.1", "scheduler": {"port": ports[4]}}
