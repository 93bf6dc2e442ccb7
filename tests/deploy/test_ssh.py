"""Deployment over SSH, to a real sshd on loopback that plays two hosts."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import urllib.request
from pathlib import Path

from exp.fleet.health import is_port_free
from tests.deploy.cluster import PROJECT, Cluster
from tests.deploy.ports import free_ports
from tests.deploy.waiting import wait_until


def test_deploy_answer_status_stop(cluster: Cluster) -> None:
    """Two hosts are deployed, a completion comes back through the gateway, and stop leaves none."""
    cluster.with_compiled_code()
    deployed = cluster.setup("--start-timeout", "400")
    assert deployed.returncode == 0, deployed.stderr
    assert_answers(cluster.configs["scheduler"]["port"])

    status = cluster.setup("--status")
    assert status.returncode == 0, status.stdout
    assert status.stdout.count(" healthy ") == 5

    again = cluster.setup()
    assert again.returncode == 0, again.stderr

    stopped = cluster.setup("--stop")
    assert stopped.returncode == 0, stopped.stderr
    assert stopped.stdout.count("stopped ") == 5
    assert cluster.all_is_free()
    assert cluster.setup("--status").returncode == 1


def assert_answers(gateway_port: int) -> None:
    """A request through the gateway is answered."""
    body = {"model": "meta-llama/Llama-2-7b-hf", "prompt": "Where are the stars?", "max_tokens": 4}
    request = urllib.request.Request(
        f"http://127.0.0.1:{gateway_port}/v1/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=240) as response:
        assert response.headers["x-astrolabe-unit"] in ("127.0.0.1-1", "localhost-1")
        assert json.load(response)["usage"]["completion_tokens"] >= 1


def test_hosts_that_do_not_answer_are_named_and_nothing_is_changed(cluster: Cluster) -> None:
    """A host that refuses and one that denies the key are named before anything is copied."""
    (closed,) = free_ports(1)
    cluster.nodes[1]["ssh_port"] = closed
    cluster.nodes.append({**cluster.nodes[0], "hostname": "127.0.0.2"})
    other_key = cluster.folder / "other_key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other_key)]
    subprocess.run(command, check=True)
    cluster.nodes[0]["identity_file"] = str(other_key)
    deployed = cluster.setup()
    assert deployed.returncode == 1
    assert "localhost: it refused the connection" in deployed.stderr
    assert "127.0.0.1: it refused our key" in deployed.stderr
    assert "127.0.0.2: " in deployed.stderr
    assert not (cluster.folder / "host-0").exists()


def test_a_host_without_the_libraries_is_named(cluster: Cluster) -> None:
    """A Python that lacks what Astrolabe needs is found before anything is copied."""
    cluster.nodes[1]["python"] = "/no/such/python"
    deployed = cluster.setup()
    assert deployed.returncode == 1
    assert "localhost: " in deployed.stderr
    assert "/no/such/python" in deployed.stderr
    assert not (cluster.folder / "host-0").exists()


def test_when_one_host_fails_the_other_is_stopped(cluster: Cluster) -> None:
    """A server that dies on one host takes the whole deployment down, with its last log lines."""
    cluster.nodes[1]["vllm_command"] = "{python} -c 'raise SystemExit(\"no GPU found\")'"
    deployed = cluster.setup("--start-timeout", "400")
    assert deployed.returncode == 1
    assert "start failed on 1 of 2 hosts" in deployed.stderr
    assert "no GPU found" in deployed.stderr
    assert cluster.all_is_free()


def test_ctrl_c_while_hosts_start_leaves_nothing_running(cluster: Cluster) -> None:
    """Interrupted while one host waits for its server, both hosts stop what they had started."""
    cluster.nodes[1]["vllm_command"] = "sleep 1000"
    deployment = subprocess.Popen(cluster.command(), cwd=PROJECT, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: not is_port_free(cluster.nodes[0]["vllm_port"]))
        deployment.send_signal(signal.SIGINT)
        assert deployment.wait(400) == 130
    finally:
        deployment.kill()
        deployment.wait()
    assert cluster.all_is_free()


def test_a_hanging_host_does_not_block_for_ever(cluster: Cluster) -> None:
    """A port that accepts and says nothing is given up after ssh's own deadline."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        cluster.nodes[1]["ssh_port"] = silent.getsockname()[1]
        deployed = cluster.setup()
    assert deployed.returncode == 1
    assert "localhost: it did not answer within" in deployed.stderr


def test_dry_run_runs_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """The commands are printed, quoted for a shell, and not one is run."""
    marker = tmp_path / "ssh-was-run"
    (tmp_path / "bin").mkdir()
    spy = tmp_path / "bin/ssh"
    spy.write_text(f"#!/bin/sh\ntouch {marker}\n")
    spy.chmod(0o755)
    printed = subprocess.run(
        cluster.command("--dry-run"),
        cwd=PROJECT,
        env={**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    ).stdout
    assert not marker.exists()
    assert printed.count("\nssh ") == 10
    assert f"{cluster.server.user}@localhost" in printed
