"""What a study is: scenarios x systems x (rates, or a search for the capacity) x seeds -> cases."""

from __future__ import annotations

from typing import Literal

import msgspec

from exp.study.case import Case, Fleet, Goals, LengthBelief, TwinOptions, WorkloadSpec


class System(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A scheduler under test: the gateway's options, and what else sets it apart."""

    name: str
    label: str
    """For figures; ``{system}`` stands for the name given with ``--system-name``."""
    gateway: dict[str, str]
    """As in ``Case.gateway``."""
    lengths: LengthBelief | None = None
    """In place of the scenario's."""
    migration: Literal["none", "llumnix"] | None = None
    """In place of the scenario's."""
    variables: dict[str, float] = {}
    """What a study varies, by name, such as ``{"k": 2}``: the axes of its figures."""


class Scenario(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A fleet and a workload, and at which rates they are looked at."""

    name: str
    label: str
    fleet: Fleet
    workload: WorkloadSpec
    rates_per_s: tuple[float, ...] = ()
    """Of the load-latency curves; none without."""
    capacity_near_per_s: float | None = None
    """Where the search for the capacity begins; None: none is searched."""
    lengths: LengthBelief = LengthBelief()
    goals: dict[str, Goals] = {}
    twin: TwinOptions = TwinOptions()
    variables: dict[str, float] = {}
    """As those of systems, such as ``{"burstiness": 0.25}``."""
    only: tuple[str, ...] = ()
    """Names of the systems that take part; empty: all."""
    is_in_quick: bool = True
    """Also run with ``--quick``."""


class Study(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What is run under one name."""

    name: str
    title: str
    repeats: str
    """Which study of which paper."""
    scenarios: tuple[Scenario, ...]
    systems: tuple[System, ...]
    num_seeds: int = 5
    capacity_ttft_s: tuple[float, ...] = (3.0, 10.0)
    """Limits of the 99th percentile of TTFT that the capacity is searched under."""
    capacity_step: float = 1.02
    """Relative distance of the rates among which the capacity is found."""
    baseline: str | None = None
    """The system that capacities are compared with; None: no comparison."""
    plots: tuple[str, ...] = ()
    """Modules of ``analysis`` that draw its figures."""

    def case(self, scenario: Scenario, system: System, rate_per_s: float, seed: int) -> Case:
        """One run."""
        twin = scenario.twin
        if system.migration is not None:
            twin = msgspec.structs.replace(twin, migration=system.migration)
        return Case(
            scenario=scenario.name,
            system=system.name,
            gateway=system.gateway,
            fleet=scenario.fleet,
            workload=scenario.workload,
            rate_per_s=rate_per_s,
            seed=seed,
            lengths=system.lengths or scenario.lengths,
            goals=scenario.goals,
            twin=twin,
        )

    def pairs(self) -> list[tuple[Scenario, System]]:
        """Every scenario with every system that takes part in it."""
        return [
            (scenario, system)
            for scenario in self.scenarios
            for system in self.systems
            if not scenario.only or system.name in scenario.only
        ]
