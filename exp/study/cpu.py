"""How many cores the gateway and the sidecars of a run use, where the run starts them here."""

from __future__ import annotations

import os
import statistics
import threading
import time
from pathlib import Path
from types import TracebackType

MODULES = {"global_scheduler": "cpu.gateway", "predictor": "cpu.sidecars"}
"""What processes run with ``-m``, and the figure that their cores are told under."""
INTERVAL_S = 1.0
PROC = Path("/proc")


class CpuWatch:
    """Looks once a second at this process's descendants (Linux; sees nothing elsewhere)."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {figure: [] for figure in MODULES.values()}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="cpu-watch", daemon=True)

    def __enter__(self) -> CpuWatch:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def cores_used(self) -> dict[str, float]:
        """By figure: the median over seconds, which leaves out start and end. Empty if none ran."""
        return {
            name: round(statistics.median(cores), 3)
            for name, cores in self._samples.items()
            if cores
        }

    def _watch(self) -> None:
        before_s: dict[int, float] = {}
        looked_at_s = time.monotonic()
        while not self._ended.wait(INTERVAL_S):
            now_s: dict[int, float] = {}
            # A thread that waits for a core looks later than it wanted to.
            last_s, looked_at_s = looked_at_s, time.monotonic()
            for figure, pids in _descendants(os.getpid()).items():
                now_s |= {pid: seconds for pid in pids if (seconds := _try_cpu_s(pid)) is not None}
                known = [pid for pid in pids if pid in now_s and pid in before_s]
                if known:
                    used_s = sum(now_s[pid] - before_s[pid] for pid in known)
                    self._samples[figure].append(used_s / (looked_at_s - last_s))
            before_s = now_s


def _descendants(root: int) -> dict[str, list[int]]:
    """Processes of the modules, by figure."""
    parents = {pid: int(words[1]) for pid in _pids() if (words := _try_stat(pid)) is not None}
    found: dict[str, list[int]] = {}
    for pid in parents:
        ancestor: int | None = pid
        while ancestor is not None and ancestor != root:
            ancestor = parents.get(ancestor)
        if ancestor == root and (figure := _try_figure(pid)) is not None:
            found.setdefault(figure, []).append(pid)
    return found


def _pids() -> list[int]:
    if not PROC.is_dir():
        return []
    return [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]


def _try_figure(pid: int) -> str | None:
    try:
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return MODULES.get(module)


def _try_cpu_s(pid: int) -> float | None:
    words = _try_stat(pid)
    if words is None:
        return None
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def _try_stat(pid: int) -> list[str] | None:
    """The words after the command, from the state on: see ``proc_pid_stat(5)``."""
    try:
        return (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
