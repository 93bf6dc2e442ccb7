"""What a gateway runs with, and what is said of a setting that has no effect there."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from global_scheduler.policies import POLICIES
from global_scheduler.settings import GatewaySettings
from wire.prediction import Slo


class Lack(NamedTuple):
    """Why something can have no effect."""

    why: str
    remedy: str
    """What would give it one."""


class WithoutEffect(msgspec.Struct, frozen=True):
    """A setting that can have no effect in the running combination."""

    setting: str
    """Its name, as ``/admin/settings`` has it."""
    value: Any
    """As JSON; what is secret is masked."""
    why: str
    remedy: str

    def __str__(self) -> str:
        """One line, as it is logged."""
        flag = "--" + self.setting.replace("_", "-")
        value = _as_typed(self.value)
        return f"without effect: {flag} {value}: {self.why}; to give it one: {self.remedy}"


@dataclass(frozen=True, slots=True)
class RunningUnit:
    """What matters here of a unit."""

    has_sidecar: bool = True
    has_own_limit: bool = False
    models: tuple[str, ...] = ()
    """Sorted; empty as long as it has not been seen healthy."""
    is_standby: bool = False
    """It was started because it was needed."""


@dataclass(frozen=True)
class Running:
    """What a gateway runs with now: at first what it was started with, later what it was switched
    to."""

    settings: GatewaySettings
    """With the values that are in force."""
    units: tuple[RunningUnit, ...] = ()
    goals: tuple[Slo, ...] = ()
    """The latency goals of requests that name none, by model."""
    has_goals_for_all: bool = False
    """Those for all models that have none of their own are among them, with a TPOT."""
    has_quotas: bool = False
    standby_kinds: frozenset[str] = frozenset()
    """How the listed standby units are started; empty: there are none."""

    @cached_property
    def has_sidecars(self) -> bool:
        """Whether anybody can be asked. Units that are yet to come may have one."""
        return not self.units or any(unit.has_sidecar for unit in self.units)

    @cached_property
    def needs(self) -> str:
        """What the policy wants to know."""
        return POLICIES[self.settings.policy].needs

    @cached_property
    def has_limits(self) -> bool:
        """Whether any unit has a limit of requests at a time."""
        is_general = self.settings.worker_concurrency_limit != "none"
        return is_general or any(unit.has_own_limit for unit in self.units)

    @cached_property
    def may_fill_up(self) -> bool:
        """Whether requests may find every unit that they could go to at its limit."""
        if self.settings.worker_concurrency_limit != "none" or self.settings.pools != "none":
            return self.has_limits
        open_models = {m for unit in self.units if not unit.has_own_limit for m in unit.models}
        limited = [unit for unit in self.units if unit.has_own_limit]
        return any(not unit.models or not open_models.issuperset(unit.models) for unit in limited)

    @cached_property
    def largest_group(self) -> int:
        """Most units that serve the same models, or may."""
        groups = Counter(unit.models for unit in self.units)
        unknown = groups.pop((), 0)
        return max(groups.values(), default=0) + unknown

    def is_set(self, name: str) -> bool:
        """Whether a setting is away from its default."""
        if name == "worker_concurrency_limit":  # an older environment variable changes its default
            return self.settings.worker_concurrency_limit != "none"
        default = GatewaySettings.model_fields[name].get_default(call_default_factory=True)
        return bool(getattr(self.settings, name) != default)

    def shown(self, name: str) -> Any:
        """A setting's value as JSON; what is secret is masked."""
        return self.settings.model_dump(mode="json", include={name})[name]


def _as_typed(value: Any) -> str:
    """A value as a command line takes it."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
