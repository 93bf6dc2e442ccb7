"""What a gateway runs with at this moment, after all that was switched."""

from __future__ import annotations

from typing import Any

from global_scheduler.assembly import Parts
from global_scheduler.effects.base import Running, RunningUnit
from global_scheduler.provisioning.base import Rules
from global_scheduler.scheduling_parts import settings_of
from global_scheduler.settings import GatewaySettings
from global_scheduler.slo import GoalDefaults
from global_scheduler.units import Unit


def running_of(parts: Parts) -> Running:
    """As it runs now."""
    goals, provisioning = parts.routing.goal_defaults, parts.provisioning
    for_all = goals.get("*")
    return Running(
        settings=_in_force(parts),
        units=tuple(
            _running_unit(unit, is_standby=unit.name in provisioning.controller.standby)
            for unit in parts.base.units.all()
        ),
        goals=tuple(goals.values()),
        has_goals_for_all=for_all is not None and for_all.tpot_ms is not None,
        has_quotas=bool(parts.base.limiter.quotas),
        standby_kinds=frozenset(unit.provisioner.kind for unit in provisioning.listed),
    )


def _in_force(parts: Parts) -> GatewaySettings:
    """The settings of the start, and in their place what was switched since."""
    routing = parts.routing
    switched: dict[str, Any] = {
        **parts.pools.admin.rules(),
        **_provisioning(parts.provisioning.controller.rules),
        **settings_of(routing),
        "slo": _texts(routing.goal_defaults),
    }
    return parts.settings.model_copy(update=switched)


def _provisioning(rules: Rules) -> dict[str, Any]:
    return {
        "provisioning": rules.mode,
        "provisioning_limit_ms": rules.limit_ms,
        "provisioning_idle_s": rules.idle_s,
        "provisioning_cooldown_s": rules.cooldown_s,
        "min_units": rules.min_units,
        "max_units": rules.max_units,
    }


def _texts(goals: GoalDefaults) -> list[str]:
    """As ``--slo`` takes them."""
    return [f"{model}={_text(slo.ttft_ms)},{_text(slo.tpot_ms)}" for model, slo in goals.items()]


def _text(goal_ms: float | None) -> str:
    return "-" if goal_ms is None else f"{goal_ms:g}"


def _running_unit(unit: Unit, *, is_standby: bool) -> RunningUnit:
    return RunningUnit(
        has_sidecar=unit.predictor_url is not None,
        has_own_limit=unit.concurrency_limit is not None,
        models=tuple(sorted(unit.models)),
        is_standby=is_standby,
    )
