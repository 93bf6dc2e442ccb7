"""The admin API: units, policy, length estimates and decisions of a running gateway."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Query
from msgspec.structs import asdict
from pydantic import BaseModel, ConfigDict, NonNegativeInt, field_validator, model_validator

from global_scheduler.admission import Headroom, Miss
from global_scheduler.decisions import CAPACITY, DecisionLog
from global_scheduler.dispatch import Routing
from global_scheduler.effects.base import WithoutEffect
from global_scheduler.health import HealthChecker
from global_scheduler.lengths import Lengths
from global_scheduler.policies import POLICIES
from global_scheduler.scheduling_parts import settings_of
from global_scheduler.settings import GatewaySettings
from global_scheduler.settings.policy_names import AskedPolicy, OtherName, with_one_name
from global_scheduler.settings.queueing import HoldAbove, hold_above_s
from global_scheduler.slo import parse_goal_defaults
from global_scheduler.units import Unit, UnitRegistry, new_unit
from wire.bounded_numbers import BoundedNumbers

SECRET_SETTINGS = ("api_key", "engine_api_key", "admin_token", "redis_url")


class UnitIn(BaseModel):
    """A unit to register."""

    model_config = ConfigDict(extra="forbid")

    name: str
    engine_url: str
    predictor_url: str | None = None


class RoutingIn(BoundedNumbers):
    """A change of routing; what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    policy: AskedPolicy | None = None
    scheduler: OtherName = None
    """Another name for ``policy``."""
    num_query_predictors: NonNegativeInt | None = None
    hold_above_ms: HoldAbove | None = None
    slo_miss: Miss | None = None
    shed_below: int | None = None
    slo_headroom: Headroom | None = None
    slo: list[str] | None = None
    """Default goals, as ``--slo`` takes them; they take the place of all there were."""

    @model_validator(mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        return with_one_name(given) if isinstance(given, dict) else given

    @field_validator("slo")
    @classmethod
    def _check_goals(cls, value: list[str] | None) -> list[str] | None:
        parse_goal_defaults(value or ())
        return value


def admin_router(
    units: UnitRegistry,
    routing: Routing,
    log: DecisionLog,
    health: HealthChecker,
    lengths: Lengths,
) -> APIRouter:
    """The routes under ``/admin``."""
    router = APIRouter(prefix="/admin", tags=["admin"])
    _add_units(router, units, health)
    _add_routing(router, routing, log)

    @router.get("/lengths")
    async def show_lengths() -> dict[str, Any]:
        """What the length estimates have learnt, and how often the model answered."""
        return lengths.state()

    return router


def settings_router(
    settings: GatewaySettings, idle: Callable[[], list[WithoutEffect]]
) -> APIRouter:
    """The route ``/admin/settings``; ``idle`` finds the settings without effect."""
    router = APIRouter(prefix="/admin", tags=["admin"])

    @router.get("/settings")
    async def show_settings() -> dict[str, Any]:
        """What the gateway was started with, but for what is secret; and ``without_effect``: of
        what it runs with now, the settings that can have none, why, and what would change that.
        """
        started_with = settings.model_dump(mode="json", exclude=set(SECRET_SETTINGS))
        return started_with | {"without_effect": [asdict(one) for one in idle()]}

    return router


def _add_units(router: APIRouter, units: UnitRegistry, health: HealthChecker) -> None:
    @router.get("/units")
    async def list_units() -> list[dict[str, Any]]:
        """Every unit and how it does."""
        return [_unit_out(unit) for unit in units.all()]

    @router.post("/units", status_code=201)
    async def register(body: UnitIn) -> dict[str, Any]:
        """Register a unit; it is checked at once and takes requests when it is healthy."""
        unit = new_unit(body.name, body.engine_url, body.predictor_url)
        units.add(unit)
        await health.check(unit)
        return _unit_out(unit)

    @router.post("/units/{name}/drain")
    async def drain(name: str, off: bool = False) -> dict[str, Any]:
        """Send the unit nothing new; what it runs goes on. ``?off=true`` takes it back in."""
        unit = units.get(name)
        unit.draining = not off
        return _unit_out(unit)

    @router.delete("/units/{name}")
    async def remove(name: str) -> dict[str, Any]:
        """Forget the unit; what it runs goes on."""
        return _unit_out(units.remove(name))


def _add_routing(router: APIRouter, routing: Routing, log: DecisionLog) -> None:
    @router.get("/policy")
    async def show_policy() -> dict[str, Any]:
        """How requests are routed, and the policies there are."""
        return _routing_out(routing)

    @router.put("/policy")
    async def switch_policy(body: RoutingIn) -> dict[str, Any]:
        """Change how requests are routed, from the next decision on."""
        if body.policy is not None:
            routing.policy = POLICIES[body.policy]
        if body.num_query_predictors is not None:
            routing.num_query_predictors = body.num_query_predictors
        if body.hold_above_ms is not None:
            routing.hold_above_s = hold_above_s(body.hold_above_ms)
        if body.slo is not None:
            routing.goal_defaults = parse_goal_defaults(body.slo)
        given = {
            "miss": body.slo_miss,
            "shed_below": body.shed_below,
            "headroom": body.slo_headroom,
        }
        changed = {name: value for name, value in given.items() if value is not None}
        routing.goals = replace(routing.goals, **changed)  # type: ignore[arg-type]
        return _routing_out(routing)

    @router.get("/decisions")
    async def decisions(
        limit: Annotated[int, Query(ge=1, le=CAPACITY)] = CAPACITY,
    ) -> list[dict[str, Any]]:
        """The last decisions with what was predicted and observed, oldest first."""
        return [decision.as_dict() for decision in log.last(limit)]


def _unit_out(unit: Unit) -> dict[str, Any]:
    return {
        "name": unit.name,
        "engine_url": unit.engine_url,
        "predictor_url": unit.predictor_url,
        "healthy": unit.healthy,
        "draining": unit.draining,
        "models": sorted(unit.models),
        "concurrency_limit": unit.concurrency_limit,
        "num_outstanding": len(unit.outstanding),
        "num_outstanding_tokens": round(unit.num_outstanding_tokens),
        "last_error": unit.last_error,
    }


def _routing_out(routing: Routing) -> dict[str, Any]:
    return {
        **settings_of(routing),
        "slo": {
            model: {"ttft_ms": goals.ttft_ms, "tpot_ms": goals.tpot_ms}
            for model, goals in routing.goal_defaults.items()
        },
        "policies": list(POLICIES),
    }
