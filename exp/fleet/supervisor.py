"""Bringing a plan up on this machine, and taking it down."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exp.fleet.display import Display
from exp.fleet.errors import OtherFleetError, PortInUseError, StartError
from exp.fleet.health import healthy_titles, is_port_free
from exp.fleet.interrupts import interrupts_deferred
from exp.fleet.plan import Part, Plan
from exp.fleet.state import Fleet, StartedPart, Store
from global_scheduler.provisioning.processes import (
    ProcessId,
    start_process,
    stop_processes,
    survivors,
)

POLL_S = 0.2
LOG_LINES_SHOWN = 15
GRACE_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Supervisor:
    """Starts and stops the parts of one fleet. Callers hold ``store.locked()``."""

    store: Store
    display: Display
    project: Path
    """The folder the parts run in."""
    start_timeout_s: float = 180.0
    env: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By role, what the processes get beside the plan's own; in no record, for it may be secret."""
    command: str = "bash exp/setup.sh"
    """What people have called, to tell them how to go on."""
    clock: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)

    def up(self, plan: Plan) -> int:
        """Start what does not run and wait until all is healthy; returns how many were started.

        Whatever goes wrong, Ctrl-C included, what this call started is stopped again.

        Raises:
            OtherFleetError, PortInUseError or StartError: with what to do about it.
        """
        fleet = self._recorded(plan)
        running = {item.part.title for item in fleet.running}
        missing = [part for part in plan.parts if part.is_ours and part.title not in running]
        self._check_ports(missing)
        try:
            for part in missing:
                fleet = self._start(part, fleet)
            self._wait(fleet)
        except BaseException:
            with interrupts_deferred():
                self._undo({part.title for part in missing})
            raise
        return len(missing)

    def down(self) -> list[StartedPart]:
        """Stop all that was recorded; returns what was still running."""
        fleet = self.store.try_load()
        if fleet is None:
            return []
        running = list(fleet.running)
        stop_processes(self._processes(fleet.started), GRACE_S)
        self.store.forget()
        return running

    def _processes(self, started: Sequence[StartedPart]) -> list[ProcessId]:
        """Those of the parts, and of parts that have died what they left running."""
        leaders = [item.process for item in started]
        return [*leaders, *(one for item in leaders for one in survivors(item, self.project))]

    def _recorded(self, plan: Plan) -> Fleet:
        fleet = self.store.try_load()
        if fleet is None:
            return Fleet(plan=plan)
        dead = [item for item in fleet.started if not item.is_running]
        stop_processes(self._processes(dead), GRACE_S)
        if not fleet.running:
            return Fleet(plan=plan)
        if fleet.plan != plan:
            raise OtherFleetError(
                f"Another fleet is running here ({fleet.plan.label}) than the one asked for"
                f" ({plan.label}, or with other options). Stop it first: {self.command} --stop"
                " (with --hosts FILE where it was deployed so)."
            )
        return fleet

    def _check_ports(self, parts: Sequence[Part]) -> None:
        taken = [part for part in parts if not is_port_free(part.port)]
        if taken:
            lines = [f"Port {part.port}, for the {part.title}, is in use." for part in taken]
            raise PortInUseError(
                "\n".join(lines)
                + "\nAnother program listens there. See which with `ss -ltnp` or `lsof -i"
                f" :{taken[0].port}`, and stop it; or choose other ports (a local fleet:"
                " --port-offset 1000; hosts: vllm_port and predictor_port in their file)."
                " Nothing was started."
            )

    def _start(self, part: Part, fleet: Fleet) -> Fleet:
        log = self.store.log_path(part)
        with interrupts_deferred():
            try:
                env = {**part.env, **self.env.get(part.role, {})}
                process = start_process(part.command, self.project, env, log)
            except OSError as error:
                raise StartError(
                    f"The {part.title} cannot be started: {part.command[0]}: {error.strerror}"
                ) from error
            fleet = fleet.with_part(StartedPart(part=part, process=process, started_at=time.time()))
            self.store.save(fleet)
        return fleet

    def _undo(self, titles: set[str]) -> None:
        fleet = self.store.try_load()
        if fleet is None:
            return
        ours = [item for item in fleet.started if item.part.title in titles]
        self.display.line("Stopping what was started ...")
        stop_processes(self._processes(ours), GRACE_S)
        if kept := fleet.running:
            self.store.save(Fleet(plan=fleet.plan, started=kept))
        else:
            self.store.forget()

    def _wait(self, fleet: Fleet) -> None:
        began = self.clock()
        waiting = {part.title: part for part in fleet.plan.parts}
        while waiting:
            for title in sorted(healthy_titles(list(waiting.values()))):
                part = waiting.pop(title)
                self.display.line(f"  ready  {title:<18} {part.url}")
            self._raise_if_ended(fleet)
            waited_s = self.clock() - began
            if waiting and waited_s > self.start_timeout_s:
                raise self._too_late(list(waiting.values()))
            text = f"waiting for {', '.join(waiting)} ({waited_s:.0f} s)" if waiting else ""
            self.display.progress(len(fleet.plan.parts) - len(waiting), len(fleet.plan.parts), text)
            if waiting:
                self.sleep(POLL_S)

    def _raise_if_ended(self, fleet: Fleet) -> None:
        for item in fleet.started:
            if not item.is_running:
                raise StartError(
                    f"The {item.part.title} (pid {item.process.pid}) ended while it started."
                    f"\n{self._last_log_lines(item.part)}"
                )

    def _too_late(self, parts: Sequence[Part]) -> StartError:
        waited = f"within {self.start_timeout_s:.0f} s"
        lines = [
            f"The {part.title} did not become healthy {waited}: no 200 from"
            f" {part.url}{part.health_path}.\n"
            + (
                self._last_log_lines(part)
                if part.is_ours
                else "It is run by someone else, as no command to start it is given: is it up?"
            )
            for part in parts
        ]
        return StartError("\n".join(lines))

    def _last_log_lines(self, part: Part) -> str:
        path = self.store.log_path(part)
        if not path.exists():
            return f"{path} is not there."
        lines = path.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        shown = "\n".join(f"  | {line}" for line in lines) or "  | (nothing)"
        return f"The end of {path}:\n{shown}"
