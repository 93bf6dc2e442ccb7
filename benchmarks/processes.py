"""Processes that a benchmark or a test starts, and ends by their process id."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

STOP_GRACE_S = 10.0


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pin(pid: int, core: int) -> bool:
    """Put a process on one core, where the system can and has it; False where not."""
    if not hasattr(os, "sched_setaffinity") or core >= (os.cpu_count() or 1):
        return False
    os.sched_setaffinity(pid, {core})
    return True


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (Linux; 0 elsewhere)."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    lines = status.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_s(pid: int) -> float:
    """User and system time that a process has taken (Linux; 0 elsewhere)."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """The processes that a process has started (Linux; none elsewhere)."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for file in files for word in file.read_text().split()]


def cpu_ticks() -> tuple[int, int]:
    """(idle, all) ticks of all cores since boot (Linux; zeros elsewhere): see ``proc_stat(5)``."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0, 0
    ticks = [int(word) for word in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


class Child:
    """A child process."""

    def __init__(self, command: list[str], log: Path | None = None) -> None:
        if log is None:
            self._process = subprocess.Popen(command)
        else:
            with log.open("ab") as output:
                self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def rss_mb(self) -> float:
        """Resident memory with that of its own children in MB (Linux; 0 elsewhere)."""
        return rss_mb(self.pid) + sum(map(rss_mb, children(self.pid)))

    def cpu_s(self) -> float:
        """CPU time so far with that of its own children (Linux; 0 elsewhere)."""
        return cpu_s(self.pid) + sum(map(cpu_s, children(self.pid)))

    def kill(self) -> None:
        """End it at once, as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Ask it to end, then insist."""
        self._process.terminate()
        try:
            self._process.wait(STOP_GRACE_S)
        except subprocess.TimeoutExpired:
            self.kill()
