"""``/admin/provisioning``: how the standby units are, and switching at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)

from global_scheduler.errors import BadRequest
from global_scheduler.provisioning.base import Mode, Standby
from global_scheduler.provisioning.controller import Controller


class RulesIn(BaseModel):
    """A change of the rules; what is absent stays. ``"max_units": null`` lifts the maximum."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode | None = None
    limit_ms: PositiveFloat | None = None
    idle_s: PositiveFloat | None = None
    cooldown_s: NonNegativeFloat | None = None
    min_units: NonNegativeInt | None = None
    max_units: PositiveInt | None = None


def provisioning_router(
    controller: Controller, clock: Callable[[], float], guard: Any
) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/admin/provisioning", tags=["admin"], dependencies=[guard])

    @router.get("")
    async def show() -> dict[str, Any]:
        """The rules, and each standby unit with its state and its last failure."""
        return _shown(controller, clock())

    @router.put("")
    async def change(body: RulesIn) -> dict[str, Any]:
        """Change the rules, ``mode`` above all; units stay as they are."""
        rules = replace(controller.rules, **body.model_dump(exclude_none=True))
        if "max_units" in body.model_fields_set:
            rules = replace(rules, max_units=body.max_units)
        if rules.max_units is not None and rules.max_units < rules.min_units:
            raise BadRequest(
                f"max_units is {rules.max_units}, below min_units, {rules.min_units}",
                param="max_units",
            )
        controller.rules = rules
        return _shown(controller, clock())

    return router


def _shown(controller: Controller, now_s: float) -> dict[str, Any]:
    units = [_unit_shown(one, now_s) for one in controller.standby.values()]
    return {**asdict(controller.rules), "units": units}


def _unit_shown(one: Standby, now_s: float) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.model,
        "state": one.state,
        "in_state_for_s": None if one.since_s == float("-inf") else round(now_s - one.since_s, 1),
        "num_failures": one.num_failures,
        "last_error": one.last_error,
        "retry_in_s": round(one.retry_s - now_s, 1) if one.retry_s > now_s else None,
    }
