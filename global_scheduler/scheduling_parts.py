"""How requests wait and how they are routed, made from settings; the twin makes them so, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from global_scheduler.admission import AdmissionRules
from global_scheduler.dispatch import Routing
from global_scheduler.late_binding import LateBinding
from global_scheduler.policies import POLICIES
from global_scheduler.pools.book import PoolBook
from global_scheduler.pools.classes import Classifier
from global_scheduler.queue_metrics import QueueMetrics
from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.holding import Holding
from global_scheduler.settings import GatewaySettings
from global_scheduler.settings.queueing import hold_above_ms
from global_scheduler.units import UnitRegistry


def routing_of(settings: GatewaySettings) -> Routing:
    """How requests are routed at first."""
    return Routing(
        POLICIES[settings.policy],
        settings.num_query_predictors,
        AdmissionRules(settings.slo_miss, settings.shed_below, settings.slo_headroom),
        settings.goal_defaults,
        settings.hold_above_s,
    )


def settings_of(routing: Routing) -> dict[str, Any]:
    """How requests are routed now, by the names of the settings; default goals are left out."""
    return {
        "policy": routing.policy.name,
        "num_query_predictors": routing.num_query_predictors,
        "hold_above_ms": hold_above_ms(routing.hold_above_s),
        "slo_miss": routing.goals.miss,
        "shed_below": routing.goals.shed_below,
        "slo_headroom": routing.goals.headroom,
    }


def late_binding_of(
    settings: GatewaySettings,
    units: UnitRegistry,
    metrics: QueueMetrics,
    clock: Callable[[], float],
) -> LateBinding:
    """Where requests wait."""
    return LateBinding(
        units,
        Holding(
            ORDERS[settings.queue_order],
            max_requests=settings.max_queued_requests,
            max_age_s=settings.max_queue_age_s,
            max_overtakes=settings.max_overtakes,
        ),
        PoolBook(None),
        Classifier(),
        metrics,
        clock=clock,
        default_limit=settings.first_limit,
    )
