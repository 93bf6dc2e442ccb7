"""A whole local fleet, started for a test and stopped by process id."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from exp.fleet.display import TerminalDisplay
from exp.fleet.health import wait_for_units
from exp.fleet.plan import Plan
from exp.fleet.state import StartedPart, Store
from exp.fleet.supervisor import Supervisor
from tests.deploy.ports import free_offset
from tests.deploy.waiting import wait_until

PROJECT = Path(__file__).resolve().parents[2]
PORTS = [8001, 8002, 8003, 8101, 8102, 8103, 8200]


@dataclass(frozen=True, slots=True)
class RunningFleet:
    """A fleet that answers."""

    supervisor: Supervisor
    plan: Plan

    @property
    def gateway(self) -> str:
        """The gateway's address."""
        return self.plan.parts[-1].url

    def client(self) -> openai.OpenAI:
        """The official client, which does not hide failures by retrying."""
        return openai.OpenAI(base_url=f"{self.gateway}/v1", api_key="none", max_retries=0)

    def get(self, path: str) -> Any:
        """JSON from the gateway."""
        with urllib.request.urlopen(self.gateway + path, timeout=120) as response:
            return json.load(response)

    def healthy_units(self) -> set[str]:
        """The units that take requests."""
        return {unit["name"] for unit in self.get("/admin/units") if unit["healthy"]}

    def kill(self, title: str) -> None:
        """End a part as a crash would."""
        part = self._started(title)
        os.kill(part.process.pid, signal.SIGKILL)
        wait_until(lambda: not part.is_running)

    def mend(self) -> None:
        """Start again what was killed."""
        self.supervisor.up(self.plan)

    def _started(self, title: str) -> StartedPart:
        fleet = self.supervisor.store.try_load()
        assert fleet is not None
        return next(item for item in fleet.started if item.part.title == title)


@contextlib.contextmanager
def run_fleet(plan_at: Callable[[int], Plan], folder: Path) -> Iterator[RunningFleet]:
    """Bring a plan up on free ports; ``plan_at`` takes the offset of its ports."""
    plan = plan_at(free_offset(PORTS, random.Random(os.getpid())))
    store = Store(folder / "fleet")
    supervisor = Supervisor(
        store=store, display=TerminalDisplay(sys.stdout), project=PROJECT, start_timeout_s=600.0
    )
    with store.locked():
        supervisor.up(plan)
        fleet = RunningFleet(supervisor, plan)
        try:
            wait_for_units(fleet.gateway)
            yield fleet
        finally:
            supervisor.down()
