"""``/admin/provisioning``: how the standby units are, and switching at run time.

A list of standby units holds commands, which the gateway's user runs. Where anybody on the machine
may call the admin API, which is so without a token, none is taken from a call: then only the file
that the gateway was started with is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter
from pydantic import (
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from global_scheduler.errors import BadRequest, Forbidden
from global_scheduler.provisioning.base import Mode, Standby
from global_scheduler.provisioning.controller import Controller
from global_scheduler.provisioning.loop import ProvisioningLoop
from global_scheduler.provisioning.standby import (
    StandbyUnit,
    check_different,
    check_names,
    load_standby_units,
)
from global_scheduler.units import UnitRegistry
from wire.bounded_numbers import BoundedNumbers
from wire.model_config import ConfigError


class RulesIn(BoundedNumbers):
    """A change of the rules; what is absent stays. ``"max_units": null`` lifts the maximum."""

    model_config = ConfigDict(extra="forbid")

    mode: Mode | None = None
    limit_ms: PositiveFloat | None = None
    idle_s: PositiveFloat | None = None
    cooldown_s: NonNegativeFloat | None = None
    min_units: NonNegativeInt | None = None
    max_units: PositiveInt | None = None


class StandbyUnitsIn(BaseModel):
    """Another list of standby units; ``{}``: the file of ``--standby-units``, read again."""

    model_config = ConfigDict(extra="forbid")

    units: list[StandbyUnit] | None = None
    """As in the file; none at all is allowed here."""
    file: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> StandbyUnitsIn:
        if self.units is not None and self.file is not None:
            raise ValueError("units and file: give one of them")
        check_different(self.units or ())
        return self


def provisioning_router(
    loop: ProvisioningLoop,
    units: UnitRegistry,
    clock: Callable[[], float],
    *,
    file: Path | None,
    has_token: bool,
) -> APIRouter:
    """The routes. ``file`` is that of ``--standby-units``; ``has_token`` says that callers of the
    admin API have shown one."""
    router = APIRouter(prefix="/admin/provisioning", tags=["admin"])
    controller = loop.controller
    _add_list(router, loop, units, clock, file, has_token=has_token)

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


def _add_list(
    router: APIRouter,
    loop: ProvisioningLoop,
    units: UnitRegistry,
    clock: Callable[[], float],
    file: Path | None,
    *,
    has_token: bool,
) -> None:
    @router.put("/units")
    async def relist(body: StandbyUnitsIn) -> dict[str, Any]:
        """Take another list of standby units.

        What runs and is named still goes on; a changed definition of it counts when it is next off.
        What is not named any more ends its requests, and is stopped.
        """
        if (body.units is not None or body.file is not None) and not has_token:
            raise Forbidden(
                "a list of standby units holds commands: a gateway without --admin-token reads "
                "them only from the file of --standby-units",
                param="file" if body.units is None else "units",
            )
        standby = loop.controller.standby
        taken = {unit.name for unit in units.all() if unit.name not in standby}
        await loop.relist(await _listed(body, file, taken))
        return _shown(loop.controller, clock())


async def _listed(
    body: StandbyUnitsIn, file: Path | None, taken: Collection[str]
) -> Sequence[StandbyUnit]:
    """The units that a call wants. Raises BadRequest."""
    try:
        if body.units is not None:
            check_names(body.units, taken, "units")
            return body.units
        path = body.file or file
        if path is None:
            raise BadRequest("the gateway was started without --standby-units", param="file")
        return await anyio.to_thread.run_sync(load_standby_units, path, taken)
    except ConfigError as error:
        raise BadRequest(str(error), param="units") from None


def _shown(controller: Controller, now_s: float) -> dict[str, Any]:
    units = [_unit_shown(one, now_s) for one in controller.standby.values()]
    return {**asdict(controller.rules), "units": units}


def _unit_shown(one: Standby, now_s: float) -> dict[str, Any]:
    return {
        "name": one.name,
        "model": one.model,
        "state": one.state,
        "listed": one.is_listed,
        "in_state_for_s": None if one.since_s == float("-inf") else round(now_s - one.since_s, 1),
        "num_failures": one.num_failures,
        "last_error": one.last_error,
        "retry_in_s": round(one.retry_s - now_s, 1) if one.retry_s > now_s else None,
    }
