"""A network of a test's own, where the system has them: documented ports are free in there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing

DOCUMENTED_PORTS = (*range(8001, 8005), *range(8101, 8105), 8200)

# Brings the loopback interface up, with nothing but Python, and stays until its input ends.
_HOLD = """
import fcntl, socket, struct, subprocess, sys
subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/dev/shm"], check=True)
with socket.socket() as any_socket:  # SIOCSIFFLAGS; IFF_UP and IFF_RUNNING
    fcntl.ioctl(any_socket, 0x8914, struct.pack("16sH14s", b"lo", 0x41, b""))
print("up", flush=True)
sys.stdin.read()
"""


class Network:
    """Where commands run: in a network namespace with a ``/dev/shm`` of its own, which has the
    snapshots that engines of fixed names publish; or in the open."""

    def __init__(self, *, is_own: bool = True) -> None:
        """``is_own`` asks for one of its own, where the system has them."""
        self._holder = _try_hold() if is_own else None

    def enter(self, command: Sequence[str], folder: str) -> list[str]:
        """The command that runs ``command`` in there, in ``folder``."""
        if self._holder is None:
            return list(command)
        kinds = ["--net", "--mount"]
        if os.geteuid():
            kinds += ["--user", "--preserve-credentials"]
        # Not by --wd, which would leave the folder one of the mounts outside: files could then not
        # be linked or renamed between it and absolute paths.
        go = ["sh", "-c", 'cd "$0" && exec "$@"', folder]
        return ["nsenter", f"--target={self._holder.pid}", *kinds, *go, *command]

    def port_in_use(self) -> int | None:
        """A documented port on which something else listens, if any; never in one of its own."""
        if self._holder is not None:
            return None
        return next((port for port in DOCUMENTED_PORTS if _is_taken(port)), None)

    def close(self) -> None:
        """Give it up; what runs in it should have ended."""
        if self._holder is not None:
            self._holder.communicate(timeout=60)


def _try_hold() -> subprocess.Popen[str] | None:
    """The process that a namespace belongs to, or None where the system does not have them."""
    if not shutil.which("unshare") or not shutil.which("nsenter"):
        return None
    kinds = ["--net", "--mount", *(["--map-root-user"] if os.geteuid() else [])]
    holder = subprocess.Popen(
        ["unshare", *kinds, sys.executable, "-c", _HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None  # a pipe
    if holder.stdout.readline() == "up\n":
        return holder
    holder.communicate(timeout=60)
    return None


def _is_taken(port: int) -> bool:
    with closing(socket.socket()) as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
