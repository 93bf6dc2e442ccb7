"""The parts that keep the pools, made from settings and joined to late binding."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from global_scheduler.admin_pools import PoolAdmin, pools_router
from global_scheduler.auto_limits import AutoLimits
from global_scheduler.backlogs import Backlogs
from global_scheduler.control_loop import PoolControl
from global_scheduler.late_binding import LateBinding
from global_scheduler.pool_metrics import PoolMetrics, StealMetrics
from global_scheduler.settings import GatewaySettings
from global_scheduler.slo import GoalDefaults
from global_scheduler.split_prices import Pricer
from global_scheduler.steal_permits import StealPermits
from global_scheduler.units import Unit, UnitRegistry

INTERVALS_PER_LIMIT = 5
"""Limits are derived less often than pools are looked at."""


@dataclass(frozen=True, slots=True)
class PoolParts:
    """What keeps the pools."""

    control: PoolControl
    permits: StealPermits
    auto_limits: AutoLimits
    admin: PoolAdmin

    def background(self) -> list[Callable[[], Coroutine[Any, Any, None]]]:
        """What runs beside the requests, until cancelled."""
        return [self.control.run, self.auto_limits.run]

    def router(self) -> APIRouter:
        """``/admin/pools``."""
        return pools_router(self.admin)

    async def close(self) -> None:
        """End what is under way."""
        await self.permits.close()


def pool_parts(
    settings: GatewaySettings,
    units: UnitRegistry,
    late_binding: LateBinding,
    backlogs: Backlogs,
    registry: CollectorRegistry,
    goal_defaults: Callable[[], GoalDefaults],
    *,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> PoolParts:
    """Put together; ``late_binding`` asks for permits from now on."""
    metrics = PoolMetrics(registry)
    permits = StealPermits(
        units,
        late_binding,
        backlogs,
        StealMetrics(registry),
        clock,
        rule=settings.stealing,
        tau_cool_s=settings.rasp_tau_cool_s,
    )
    late_binding.may_steal, late_binding.on_stolen = permits.may_steal, permits.stolen
    auto_limits = AutoLimits(
        units,
        late_binding,
        backlogs,
        metrics,
        lambda unit: _tpot_goal_s(unit, goal_defaults(), settings.auto_limit_tpot_ms),
        interval_s=INTERVALS_PER_LIMIT * settings.control_interval_s,
        is_on=settings.worker_concurrency_limit == "auto",
    )
    pricer = Pricer(
        backlogs, late_binding.limit_of, clock, deadline_s=settings.control_interval_s / 2
    )
    control = PoolControl(
        units,
        late_binding,
        pricer,
        permits,
        metrics,
        clock=clock,
        wall_clock=wall_clock,
        interval_s=settings.control_interval_s,
        rules=settings.regime_rules,
        learns_threshold=settings.learn_threshold,
    )
    control.set_threshold(settings.long_threshold_tokens)
    control.divide(settings.pools)
    admin = PoolAdmin(units, late_binding, control, permits, auto_limits, clock)
    return PoolParts(control, permits, auto_limits, admin)


def _tpot_goal_s(unit: Unit, defaults: GoalDefaults, otherwise_ms: float) -> float:
    """The strictest of those that requests for the unit's models have if they name none."""
    named = [defaults.get(model) or defaults.get("*") for model in unit.models]
    goals_ms = [slo.tpot_ms for slo in named if slo is not None and slo.tpot_ms is not None]
    return min(goals_ms, default=otherwise_ms) / 1e3
