"""Units that die, hang or are taken out, and come back. Only processes of the given fleet."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from exp.fleet.plan import Plan, Role
from exp.fleet.state import StartedPart
from exp.fleet.supervisor import Supervisor
from exp.gateway_admin import Admin

Wait = Callable[[float], None]


@dataclass(slots=True, kw_only=True)
class Trouble:
    """Makes one kind of trouble at a time, to one unit or two, and mends it."""

    supervisor: Supervisor
    plan: Plan
    admin: Admin
    rng: random.Random
    wait: Wait = time.sleep
    """Called while something is broken."""
    counts: Counter[str] = field(default_factory=Counter)

    def make(self) -> None:
        """Something random. Returns when all is well again."""
        roles: list[tuple[Role, ...]] = [("engine",), ("sidecar",), ("engine", "sidecar")]
        what = self.rng.choice((self._kill, self._kill, self._hang, self._drain))
        what(self._some_units(), self.rng.choice(roles))

    def _some_units(self) -> list[str]:
        names = [part.name for part in self.plan.parts if part.role == "engine"]
        return self.rng.sample(names, self.rng.choice((1, 1, 1, min(2, len(names)))))

    def _kill(self, units: list[str], roles: tuple[Role, ...]) -> None:
        for started in self._processes(units, roles):
            os.kill(started.process.pid, signal.SIGKILL)
            self.counts[f"killed {started.part.role}"] += 1
        self.wait(self.rng.uniform(0.5, 6.0))
        self.supervisor.up(self.plan)

    def _hang(self, units: list[str], roles: tuple[Role, ...]) -> None:
        stopped = self._processes(units, roles)
        try:
            for started in stopped:
                os.kill(started.process.pid, signal.SIGSTOP)
                self.counts[f"stopped {started.part.role}"] += 1
            self.wait(self.rng.uniform(0.5, 8.0))
        finally:
            for started in stopped:
                os.kill(started.process.pid, signal.SIGCONT)

    def _drain(self, units: list[str], roles: tuple[Role, ...]) -> None:
        for unit in units:
            self.admin.post(f"/admin/units/{unit}/drain")
            self.counts["drained unit"] += 1
        self.wait(self.rng.uniform(0.5, 6.0))
        for unit in units:
            self.admin.post(f"/admin/units/{unit}/drain?off=true")

    def _processes(self, units: list[str], roles: tuple[Role, ...]) -> list[StartedPart]:
        fleet = self.supervisor.store.try_load()
        assert fleet is not None, "the fleet runs as long as the soak"
        return [one for one in fleet.running if one.part.name in units and one.part.role in roles]
