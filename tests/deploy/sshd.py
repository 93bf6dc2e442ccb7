"""An SSH server on loopback with keys of its own, for one test."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.deploy.ports import free_ports


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running server: what a client needs to log in without a password."""

    port: int
    user: str
    identity_file: Path
    client_config: Path
    """For ``ssh -F``: the server's key is known there."""


@contextlib.contextmanager
def running_sshd(folder: Path) -> Iterator[SshServer]:
    """Start sshd as the current user, and end it by its process id."""
    program = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/sbin")
    assert program, "sshd is needed: apt-get install openssh-server"
    for name in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    server = _write_configs(folder)
    with (folder / "sshd.log").open("wb") as log:
        command = [program, "-D", "-e", "-f", str(folder / "sshd_config")]
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait_for(server.port)
            yield server
        finally:
            process.terminate()
            process.wait(10)


def _write_configs(folder: Path) -> SshServer:
    (port,) = free_ports(1)
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    (folder / "authorized_keys").chmod(0o600)
    # Root may log in only while this folder exists; sshd refuses to start without it.
    Path("/run/sshd").mkdir(exist_ok=True)
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\n"
    )
    host_key = (folder / "host_key.pub").read_text()
    known = "".join(f"[{name}]:{port} {host_key}" for name in ("127.0.0.1", "localhost"))
    (folder / "known_hosts").write_text(known)
    config = folder / "ssh_config"
    config.write_text(f"Host *\n  UserKnownHostsFile {folder}/known_hosts\n  AddressFamily inet\n")
    return SshServer(port, getpass.getuser(), folder / "user_key", config)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "sshd does not listen"
            time.sleep(0.05)
        else:
            return
