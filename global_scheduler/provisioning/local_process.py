"""Standby units as processes on the gateway's machine.

A record beside their logs says which processes a unit has, so that a gateway that comes after a
crash can stop what the crashed one has started.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path

import anyio

from global_scheduler.provisioning.base import ProvisionerFailed
from global_scheduler.provisioning.processes import (
    ProcessId,
    is_running,
    start_process,
    stop_processes,
    survivors,
)
from global_scheduler.provisioning.standby import ProcessSpec

GRACE_S = 15.0
"""From TERM to KILL."""
LOG_BYTES_READ = 4_000
LOG_LINES_SHOWN = 5


class LocalProcess:
    """Starts a unit's commands, and ends them with all that they have started."""

    def __init__(self, name: str, spec: ProcessSpec, folder: Path) -> None:
        """Logs and the record are kept in ``folder``."""
        self._name = name
        self._spec = spec
        self._folder = folder.resolve()
        self._record = self._folder / f"{name}.json"
        self._processes = self._recorded()

    async def start(self) -> None:
        """Start all commands; what still runs of earlier ones is ended first.

        Raises:
            ProvisionerFailed: a program is not there, or cannot be run or logged.
        """
        try:
            await anyio.to_thread.run_sync(self._start)
        except OSError as error:
            await self.stop()
            what = error.filename or self._spec.commands[0]
            raise ProvisionerFailed(f"cannot start: {what}: {error.strerror}") from error

    async def stop(self) -> None:
        """End them: TERM, and KILL after 15 s.

        Raises:
            ProvisionerFailed: the record cannot be removed.
        """
        try:
            await anyio.to_thread.run_sync(self._stop)
        except OSError as error:
            raise ProvisionerFailed(f"cannot stop: {error}") from error

    def try_failure(self) -> str | None:
        """That a process has ended by itself, with its last words."""
        for index, process in enumerate(self._processes):
            if not is_running(process):
                log = self._log(index)
                return f"`{self._spec.commands[index]}` has ended; {_last_words(log)} ({log})"
        return None

    def _start(self) -> None:
        self._stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        for index, command in enumerate(self._spec.commands):
            words = shlex.split(command)
            self._processes.append(
                start_process(words, self._spec.cwd, self._spec.env, self._log(index))
            )
            self._record.write_text(json.dumps([asdict(one) for one in self._processes]))

    def _stop(self) -> None:
        left = [p for leader in self._processes for p in survivors(leader, self._spec.cwd)]
        stop_processes([*self._processes, *left], GRACE_S)
        for process in self._processes:
            # Those of an earlier gateway are not our children.
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
        self._processes = []
        self._record.unlink(missing_ok=True)

    def _log(self, index: int) -> Path:
        return self._folder / f"{self._name}-{index + 1}.log"

    def _recorded(self) -> list[ProcessId]:
        """What an earlier gateway has left running."""
        try:
            return [ProcessId(**one) for one in json.loads(self._record.read_text())]
        except (OSError, ValueError, TypeError):
            return []  # there is none, or it broke off while it was written


def _last_words(log: Path) -> str:
    try:
        with log.open("rb") as source:
            source.seek(max(0, log.stat().st_size - LOG_BYTES_READ))
            lines = source.read().decode(errors="replace").split("\n")
    except OSError as error:
        return f"its log cannot be read: {error.strerror}"
    said = [line.strip() for line in lines if line.strip()]
    return "it said: " + " | ".join(said[-LOG_LINES_SHOWN:]) if said else "it said nothing"
