"""Health checks and standby units of the twin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry

from exp.twin.fleet import TwinFleet
from global_scheduler.decisions import DecisionLog
from global_scheduler.late_binding import LateBinding
from global_scheduler.provisioning.assembly import latency_reader
from global_scheduler.provisioning.base import Provisioner, Standby
from global_scheduler.provisioning.controller import Controller
from global_scheduler.provisioning.loop import ProvisioningLoop, Surroundings
from global_scheduler.provisioning.metrics import ProvisioningMetrics
from global_scheduler.provisioning.standby import StandbyUnit, WebhookSpec
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import ModelCard, Unit, UnitRegistry


class TwinHealth:
    """The gateway's health checks; engines answer them at once."""

    def __init__(
        self,
        fleet: TwinFleet,
        units: UnitRegistry,
        models: dict[str, ModelCard],
        cache_blocks: dict[str, int],
        *,
        interval_s: float,
    ) -> None:
        """``cache_blocks`` says how much each unit's prefix cache holds, as its metrics would."""
        self._fleet = fleet
        self._units = units
        self._models = models
        self._cache_blocks = cache_blocks
        self._interval_s = interval_s

    async def run(self) -> None:
        """Check for ever."""
        while True:
            for unit in self._units.all():
                await self.check(unit)
            await asyncio.sleep(self._interval_s)

    async def check(self, unit: Unit) -> None:
        """Check one unit."""
        if self._fleet.is_down(unit.name):
            unit.check_failed("connection refused")
            return
        if not unit.healthy:
            unit.prefixes.resize(self._cache_blocks[unit.name])
        unit.check_passed(self._models)


class TwinProvisioner:
    """Starts and stops one engine of the twin."""

    def __init__(self, fleet: TwinFleet, unit: str, start_s: float) -> None:
        self._fleet = fleet
        self._unit = unit
        self._start_s = start_s
        self._starting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """It is there ``start_s`` later."""
        self._starting = asyncio.ensure_future(self._come_up())

    async def stop(self) -> None:
        """It is away at once."""
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if not self._fleet.is_down(self._unit):
            self._fleet.fail(self._unit)

    def try_failure(self) -> str | None:
        """Nothing of it can fail."""
        return None

    async def _come_up(self) -> None:
        await asyncio.sleep(self._start_s)
        self._fleet.recover(self._unit)


def provisioning(
    settings: GatewaySettings,
    names: Sequence[str],
    start_s: float,
    fleet: TwinFleet,
    units: UnitRegistry,
    health: TwinHealth,
    log: DecisionLog,
    late_binding: LateBinding,
    registry: CollectorRegistry,
    clock: Callable[[], float],
) -> ProvisioningLoop:
    """The gateway's loop over these standby units; those that may not be spared have been started
    before."""
    rules = settings.provisioning_rules
    for name in names[max(0, rules.min_units - len(units.all())) :]:
        fleet.fail(name)
    controller = Controller(rules, [Standby(name) for name in names])
    around = Surroundings(
        units=units,
        health=health,
        latencies=latency_reader(
            controller, settings.provisioning_latency, log, late_binding, clock, clock
        ),
        places_of=late_binding.places_of,
        on_change=late_binding.wake,
        metrics=ProvisioningMetrics(registry),
        clock=clock,
    )

    def provisioner_of(unit: StandbyUnit) -> Provisioner:
        return TwinProvisioner(fleet, unit.name, start_s)

    listed = [_standby_unit(name) for name in names]
    return ProvisioningLoop(controller, listed, provisioner_of, around, keep=False)


def _standby_unit(name: str) -> StandbyUnit:
    url = f"http://{name}"
    return StandbyUnit(
        name=name,
        engine_url=url,
        predictor_url=url,
        provisioner=WebhookSpec(kind="webhook", url=url),
    )
