"""Tokens reach the processes that read them, and nobody else."""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tarfile
import threading
import urllib.error
import uuid
from pathlib import Path

import pytest

from exp.fleet.bundle import pack
from exp.fleet.errors import FleetError
from exp.fleet.state import Store
from exp.fleet.tokens import read_tokens
from exp.gateway_admin import Admin
from exp.study.backends.cluster import run_case
from exp.study.case import Case, Fleet, UnitGroup, WorkloadSpec
from tests.deploy.cluster import PROJECT, Cluster

HF_TOKEN = f"hf_{uuid.uuid4().hex}"
ADMIN_TOKEN = uuid.uuid4().hex
CASE = Case(
    scenario="two units",
    system="test",
    gateway={"policy": "round_robin"},
    fleet=Fleet(groups=(UnitGroup(gpu="A30", count=2),)),
    workload=WorkloadSpec(source="conversations", num_requests=4, think_s=0.1),
    rate_per_s=10.0,
    seed=1,
)


class CommandLines:
    """Looks at the command lines of all processes until told to stop."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> CommandLines:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(0.02):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:  # it has ended
                    continue


def environment(folder: Path, title: str) -> dict[str, str]:
    """Of a running part of the fleet on a host."""
    fleet = Store(folder / ".astrolabe/fleet").try_load()
    assert fleet
    (pid,) = (item.process.pid for item in fleet.running if item.part.title == title)
    entries = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def test_tokens_reach_who_reads_them_and_studies_get_in(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines get the one, the gateway the other; no command line and no host's file has them."""
    file = cluster.folder / "admin-token"
    file.write_text(f"{ADMIN_TOKEN}\n")
    file.chmod(0o600)
    cluster.env["HF_TOKEN"] = HF_TOKEN
    cluster.with_compiled_code()
    options = ("--admin-token-file", str(file), "--start-timeout", "400")
    with CommandLines() as lines:
        deployed = cluster.setup(*options)
    assert deployed.returncode == 0, deployed.stderr
    secrets = (HF_TOKEN.encode(), ADMIN_TOKEN.encode())
    assert any(b"exp.fleet.node" in line for line in lines.seen)
    assert not any(secret in line for line in lines.seen for secret in secrets)

    hosts = [Path(node["install_dir"]) for node in cluster.nodes]
    for host, name in zip(hosts, ("127.0.0.1", "localhost"), strict=True):
        engine, sidecar = (environment(host, f"{role} {name}-1") for role in ("engine", "sidecar"))
        assert engine["HF_TOKEN"] == HF_TOKEN
        assert "HF_TOKEN" not in sidecar
        assert ADMIN_TOKEN not in engine.values()
        texts = [path.read_bytes() for path in host.rglob("*") if path.is_file()]
        assert not any(secret in text for text in texts for secret in secrets)
    gateway = environment(hosts[0], "gateway")
    assert gateway["ASTROLABE_GATEWAY_ADMIN_TOKEN"] == ADMIN_TOKEN
    assert "HF_TOKEN" not in gateway

    url = f"http://127.0.0.1:{cluster.configs['scheduler']['port']}"
    with pytest.raises(urllib.error.HTTPError, match="401") as refused:
        Admin(url).get("/admin/settings")
    refused.value.close()
    monkeypatch.setenv("ASTROLABE_GATEWAY_ADMIN_TOKEN", ADMIN_TOKEN)
    assert [record.outcome for record in run_case(CASE, url)] == ["ok"] * 4


def test_a_dry_run_tells_of_tokens_without_them(cluster: Cluster) -> None:
    """Which are handed on, to what and from where; a token that others could read is noted."""
    file = cluster.folder / "hf-token"
    file.write_text(HF_TOKEN)
    file.chmod(0o644)
    cluster.env["ASTROLABE_GATEWAY_ADMIN_TOKEN"] = ADMIN_TOKEN
    shown = cluster.setup("--hf-token-file", str(file), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count(f"HF_TOKEN for the engine, from --hf-token-file {file}") == 2
    assert shown.stdout.count("ASTROLABE_GATEWAY_ADMIN_TOKEN for the gateway") == 1
    assert f"{file} can be read by others" in shown.stderr
    assert not any(one in shown.stdout + shown.stderr for one in (HF_TOKEN, ADMIN_TOKEN))


def test_a_gateway_for_all_without_a_token_is_told_of() -> None:
    """Its admin API, which studies need, would let nobody in."""
    command = [sys.executable, "-m", "exp.fleet", "--hosts", "config/host_configs.json"]
    shown = subprocess.run(
        [*command, "--dry-run"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    assert "the gateway's admin API stays closed" in shown.stderr


def test_a_file_with_a_token_is_not_copied_to_hosts(tmp_path: Path) -> None:
    """Though it lies in the project's folder, where git does not tell it from the others."""
    for name in ("token", "code.py"):
        (tmp_path / name).touch()
    packed = pack(tmp_path, [], without=[tmp_path / "../" / tmp_path.name / "token"])
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        assert archive.getnames() == ["code.py"]


@pytest.mark.parametrize("text", ["", "two words", "two\nlines", "not-ascii-é", "bell\a"])
def test_what_is_no_token_is_refused(tmp_path: Path, text: str) -> None:
    """By the option's name, without a word of what the file holds."""
    file = tmp_path / "token"
    file.write_text(text)
    options = argparse.Namespace(hf_token_file=file, admin_token_file=None)
    with pytest.raises(FleetError, match=f"^--hf-token-file {file}: must be one line") as error:
        read_tokens(options, {})
    assert not text or text not in str(error.value)
