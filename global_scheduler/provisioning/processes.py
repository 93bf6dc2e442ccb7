"""Starting, recognising and ending processes by their id.

An id alone is not enough to end a process safely: after its end the system may give the same id to
a stranger. So the moment of its start is recorded too, and nothing is signalled unless both agree.

Needs only the standard library: local fleets (``exp/fleet/``) are kept with it, too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same ``pid``."""

    pid: int
    start_mark: str


def start_process(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], log: Path
) -> ProcessId:
    """Start a process that outlives this one, as the leader of its own session.

    Raises:
        OSError: the program is not there or may not be run.
    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # It is meant to outlive us: without a return code Popen would warn that it is still running.
    process.returncode = 0
    return ProcessId(process.pid, try_start_mark(process.pid) or "ended at once")


def is_running(process: ProcessId) -> bool:
    """Whether this very process runs; a zombie does not."""
    return try_start_mark(process.pid) == process.start_mark


def try_start_mark(pid: int) -> str | None:
    """When the process with this id started, in the system's own terms; None if none runs."""
    return _mark_from_proc(pid) if (PROC / "self/stat").exists() else _mark_from_ps(pid)


def _mark_from_proc(pid: int) -> str | None:
    """Boot id and start tick: fields 3 (state) and 22 (starttime) of ``proc_pid_stat(5)``."""
    fields = _stat_fields(pid)
    if not fields or fields[0] in "ZX":
        return None
    boot_id = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return f"{boot_id} {fields[19]}"


def _stat_fields(pid: int) -> list[str]:
    """``proc_pid_stat(5)`` from field 3 on; empty when no such process is left."""
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return stat[stat.rindex(")") + 2 :].split()  # the name before it may hold anything


def survivors(leader: ProcessId, folder: Path) -> list[ProcessId]:
    """What an ended process has left running (vLLM's engine outlives a killed API server).

    They are in its session, as its children are, and work in the folder it was started in; the
    folder tells them from the session of a stranger who was given the same id. Needs ``/proc``.
    """
    if is_running(leader):
        return []
    found = []
    for entry in PROC.glob("[0-9]*"):
        pid = int(entry.name)
        fields = _stat_fields(pid)
        if fields and fields[3] == str(leader.pid) and _works_in(pid, folder):
            found.append(ProcessId(pid, try_start_mark(pid) or "ended"))
    return found


def _works_in(pid: int, folder: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").readlink() == folder.resolve()
    except OSError:
        return False  # it has ended, or is someone else's


def _mark_from_ps(pid: int) -> str | None:
    """The same where there is no ``/proc`` (macOS), to the second."""
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not state or state.startswith("Z") else started.strip()


def stop_processes(
    processes: Iterable[ProcessId],
    grace_s: float = 10.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """End processes: ask all, wait, then kill those that stay, with what they have started."""
    ours = [process for process in processes if is_running(process)]
    for process in ours:
        _signal(os.kill, process.pid, signal.SIGTERM)
    deadline = clock() + grace_s
    while any(map(is_running, ours)) and clock() < deadline:
        sleep(0.05)
    for process in ours:
        # Each part leads a process group. While a member lives, no stranger can get the id.
        _signal(os.killpg, process.pid, signal.SIGKILL)
        if is_running(process):
            _signal(os.kill, process.pid, signal.SIGKILL)
    while any(map(is_running, ours)) and clock() < deadline + grace_s:
        sleep(0.05)


def _signal(send: Callable[[int, int], None], pid: int, number: int) -> None:
    try:
        send(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # it has ended; macOS says EPERM for a group of zombies
