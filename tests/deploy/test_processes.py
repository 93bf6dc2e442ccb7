"""Processes are recognised by more than their id, and ended for certain."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from global_scheduler.provisioning.processes import (
    ProcessId,
    is_running,
    start_process,
    stop_processes,
    survivors,
)
from tests.deploy.waiting import wait_until

STUBBORN_PARENT = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_stranger_with_a_recycled_id_is_left_alone(tmp_path: Path) -> None:
    """An id whose process started at another moment than recorded gets no signal."""
    real = start_process(["sleep", "60"], tmp_path, {}, tmp_path / "log")
    stop_processes([ProcessId(real.pid, "another moment")], grace_s=0.1)
    assert is_running(real)
    stop_processes([real])
    assert not is_running(real)


def test_what_ignores_the_request_is_killed_with_its_children(tmp_path: Path) -> None:
    """A process that ignores TERM ends after the grace, and so does what it has started."""
    log = tmp_path / "log"
    parent = start_process([sys.executable, "-c", STUBBORN_PARENT], tmp_path, {}, log)
    wait_until(lambda: log.read_text().strip() != "")
    child = Path(f"/proc/{log.read_text().strip()}/stat")
    assert child.exists()
    stop_processes([parent], grace_s=0.2)
    assert not is_running(parent)
    wait_until(lambda: not child.exists() or " Z " in child.read_text())


def test_what_a_killed_part_leaves_running_is_found(tmp_path: Path) -> None:
    """A child that outlives its killed parent is found by session and folder, and ended."""
    log = tmp_path / "log"
    parent = start_process([sys.executable, "-c", STUBBORN_PARENT], tmp_path, {}, log)
    wait_until(lambda: log.read_text().strip() != "")
    assert survivors(parent, tmp_path) == []
    os.kill(parent.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(parent))
    assert survivors(parent, tmp_path.parent) == []
    (child,) = survivors(parent, tmp_path)
    assert child.pid == int(log.read_text())
    stop_processes([child], grace_s=1)
    assert not is_running(child)
