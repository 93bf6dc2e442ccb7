"""Standby units, looked after once a second: what the controller decides is carried out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import anyio

from global_scheduler.errors import Conflict
from global_scheduler.provisioning.base import (
    Action,
    FleetUnit,
    Latency,
    Provisioner,
    ProvisionerFailed,
    Situation,
    Standby,
)
from global_scheduler.provisioning.controller import Controller
from global_scheduler.provisioning.metrics import ProvisioningMetrics
from global_scheduler.provisioning.standby import StandbyUnit
from global_scheduler.units import Unit, UnitRegistry, new_unit

TICK_S = 1.0
CLOSE_TIMEOUT_S = 60.0
"""For stopping all standby units when the gateway ends."""

logger = logging.getLogger(__name__)


class Health(Protocol):
    """Whoever knows whether a unit is there."""

    async def check(self, unit: Unit) -> None:
        """Note it on the unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the loop has to do with the rest of the gateway."""

    units: UnitRegistry
    health: Health
    latencies: Callable[[], tuple[Latency, ...]]
    """Of the last requests."""
    places_of: Callable[[Unit], int]
    """Requests that a unit can run at a time."""
    on_change: Callable[[], None]
    """Called when units came or went."""
    metrics: ProvisioningMetrics
    clock: Callable[[], float]


class ProvisioningLoop:
    """Lets standby units join and leave."""

    def __init__(
        self,
        controller: Controller,
        listed: Sequence[StandbyUnit],
        provisioner_of: Callable[[StandbyUnit], Provisioner],
        around: Surroundings,
        *,
        keep: bool,
    ) -> None:
        """``keep`` leaves units running at the end."""
        self.controller = controller
        self._listed = {unit.name: unit for unit in listed}
        self._standby = dict(self._listed)
        """As each was defined when it was last off: so it runs, and so it is stopped."""
        self._provisioner_of = provisioner_of
        self._provisioners = {unit.name: provisioner_of(unit) for unit in listed}
        self._around = around
        self._keep = keep
        self._has_some = asyncio.Event()
        self._relisting = anyio.Lock()

    @property
    def listed(self) -> list[StandbyUnit]:
        """The standby units there should be, in the order in which they are started."""
        return list(self._listed.values())

    async def run(self) -> None:
        """Look after them until cancelled; where there are none, nothing is to be done."""
        async with anyio.create_task_group() as tasks:
            if self._standby:
                await self._adopt(self.listed)
            else:
                await self._has_some.wait()
            while True:
                for action in self._decide():
                    tasks.start_soon(self._carry_out, action)
                self._around.metrics.show(self.controller.standby.values())
                await anyio.sleep(TICK_S)

    async def relist(self, listed: Sequence[StandbyUnit]) -> None:
        """Take another list, whose names differ from those of all other units.

        What runs and is listed still goes on as it is; another definition of it counts from when it
        is next off. What is not listed any more ends its requests and is stopped. A unit that is
        new here and found running is taken in.
        """
        async with self._relisting:
            new = [unit for unit in listed if unit.name not in self._standby]
            for unit in new:
                self._standby[unit.name] = unit
                self._provisioners[unit.name] = self._provisioner_of(unit)
            self._listed = {unit.name: unit for unit in listed}
            self.controller.relist({unit.name: unit.model for unit in listed})
            self._settle()
            await self._adopt(new)
            self._has_some.set()

    async def close(self) -> None:
        """Stop what runs, unless it shall be kept."""
        up = [one for one in self.controller.standby.values() if one.state != "off"]
        if self._keep or not up:
            return
        logger.info("stopping standby units: %s", ", ".join(one.name for one in up))
        with anyio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
            async with anyio.create_task_group() as tasks:
                for one in up:
                    tasks.start_soon(self._stop, one.name)

    def _settle(self) -> None:
        """Whatever is off is as it is listed now, or no more."""
        for one in [one for one in self.controller.standby.values() if one.is_at_rest]:
            name = one.name
            if name not in self._listed:
                self.controller.forget(name)
                del self._standby[name], self._provisioners[name]
            elif self._standby[name] != self._listed[name]:
                self._standby[name] = self._listed[name]
                self._provisioners[name] = self._provisioner_of(self._listed[name])
                self.controller.renew(name, self._listed[name].model)

    def _decide(self) -> list[Action]:
        self._settle()
        around = self._around
        situation = Situation(
            tuple(_seen(unit, around.places_of(unit)) for unit in around.units.all()),
            around.latencies(),
            {
                one.name: why
                for one in self.controller.standby.values()
                if one.state in ("starting", "serving") and not one.is_busy
                if (why := self._provisioners[one.name].try_failure()) is not None
            },
        )
        failures = {one.name: one.num_failures for one in self.controller.standby.values()}
        actions = self.controller.decide(situation, around.clock())
        for one in self.controller.standby.values():
            if one.num_failures > failures[one.name]:
                self._report(one)
        return actions

    async def _carry_out(self, action: Action) -> None:
        logger.info("%s %s: %s", action.kind, action.unit, action.reason)
        self._around.metrics.done(action.kind)
        if action.kind == "start":
            await self._start(action.unit)
        elif action.kind == "stop":
            await self._stop(action.unit)
        elif (unit := self._try_unit(action.unit)) is not None:
            unit.draining = action.kind == "drain"
        self._around.on_change()

    async def _start(self, name: str) -> None:
        try:
            if self._try_unit(name) is not None:
                raise ProvisionerFailed("another unit was registered under its name")
            await self._provisioners[name].start()
            self._around.units.add(_unit_of(self._standby[name]))
        except (ProvisionerFailed, Conflict) as error:
            self.controller.start_failed(name, str(error), self._around.clock())
            self._report(self.controller.standby[name])
        else:
            self.controller.started(name)

    async def _stop(self, name: str) -> None:
        unit = self._try_unit(name)
        if unit is not None:
            self._around.units.remove(name)
        try:
            await self._provisioners[name].stop()
        except ProvisionerFailed as error:
            self.controller.stop_failed(name, str(error), self._around.clock())
            self._report(self.controller.standby[name])
        else:
            self.controller.stopped(name, self._around.clock())

    async def _adopt(self, standby: Iterable[StandbyUnit]) -> None:
        """Take in what runs already: an earlier gateway has left it, or somebody has started it."""
        units = list(map(_unit_of, standby))
        await asyncio.gather(*map(self._around.health.check, units))
        for unit in units:
            if unit.healthy and self._is_off(unit.name):
                self._around.units.add(unit)
                self.controller.adopted(unit.name, self._around.clock())
                logger.info("standby unit %s is running already", unit.name)
        self._around.on_change()

    def _is_off(self, name: str) -> bool:
        one = self.controller.standby.get(name)
        return one is not None and one.is_at_rest and self._try_unit(name) is None

    def _report(self, one: Standby) -> None:
        self._around.metrics.failed(one.name)
        logger.warning("standby unit %s: %s", one.name, one.last_error)

    def _try_unit(self, name: str) -> Unit | None:
        return next((unit for unit in self._around.units.all() if unit.name == name), None)


def _unit_of(standby: StandbyUnit) -> Unit:
    return new_unit(
        standby.name,
        standby.engine_url,
        standby.predictor_url,
        standby.worker_concurrency_limit,
    )


def _seen(unit: Unit, places: int) -> FleetUnit:
    return FleetUnit(
        unit.name,
        frozenset(unit.models),
        len(unit.outstanding),
        places,
        unit.healthy,
        unit.draining,
    )
