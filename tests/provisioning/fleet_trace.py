"""A fleet of made-up units, second by second, under the real controller."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from global_scheduler.provisioning.base import FleetUnit, Latency, Rules, Situation, Standby
from global_scheduler.provisioning.controller import Controller

MODEL = "m"
Trace = list[tuple[float, str, str]]


@dataclass
class Fleet:
    """Units ``u0``.. that are always there, and standby units.

    ``late`` says how many late requests arrive at a second; ``busy`` how many every unit runs.
    """

    rules: Rules
    standby: tuple[Standby, ...] = (Standby("s1"), Standby("s2"))
    num_units: int = 2
    late: Callable[[int], int] = lambda second: 0
    late_model: str = MODEL
    busy: Callable[[int], int] = lambda second: 0
    failing_starts: Collection[str] = ()
    failing_stops: Callable[[int], bool] = lambda second: False
    boot_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds from a start to health, 5 where nothing is said."""
    down: Callable[[str, int], bool] = lambda name, second: False
    """Whether a unit is unhealthy."""
    controller: Controller = field(init=False)
    trace: Trace = field(init=False, default_factory=list)
    _healthy_from: dict[str, float] = field(init=False, default_factory=dict)
    _draining: set[str] = field(init=False, default_factory=set)
    _latencies: list[Latency] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.controller = Controller(self.rules, [replace(one) for one in self.standby])

    def run(self, first_s: int, last_s: int) -> Trace:
        """Let the seconds pass; gives all that was done so far as (second, what, unit)."""
        for second in range(first_s, last_s):
            self.step(second)
        return self.trace

    def step(self, second: int) -> Situation:
        """One second; gives what the controller saw."""
        self._latencies += [Latency(second, self.late_model, 9e9)] * self.late(second)
        before = {name: one.state for name, one in self.controller.standby.items()}
        seen = Situation(self._units(second), tuple(self._latencies))
        for action in self.controller.decide(seen, second):
            self.trace.append((second, action.kind, action.unit))
            self._carry_out(action.kind, action.unit, second)
        for name, one in self.controller.standby.items():
            if before[name] == "starting" and one.state == "serving":
                self.trace.append((second, "joined", name))
        return seen

    def _units(self, second: int) -> tuple[FleetUnit, ...]:
        names = [f"u{index}" for index in range(self.num_units)]
        names += [name for name in self.controller.standby if name in self._healthy_from]
        return tuple(
            FleetUnit(
                name,
                frozenset({MODEL}),
                active=self.busy(second),
                places=8,
                healthy=second >= self._healthy_from.get(name, 0) and not self.down(name, second),
                draining=name in self._draining,
            )
            for name in names
        )

    def _carry_out(self, kind: str, name: str, second: int) -> None:
        if kind == "start" and name in self.failing_starts:
            self.controller.start_failed(name, "no machine is free", second)
        elif kind == "start":
            self._healthy_from[name] = second + self.boot_s.get(name, 5)
            self.controller.started(name)
        elif kind == "drain":
            self._draining.add(name)
        elif kind == "keep":
            self._draining.discard(name)
        elif self.failing_stops(second):
            self.controller.stop_failed(name, "the host is away", second)
        else:
            self._healthy_from.pop(name, None)
            self._draining.discard(name)
            self.controller.stopped(name, second)
