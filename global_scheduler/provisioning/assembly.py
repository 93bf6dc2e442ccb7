"""Makes the provisioning loop of a gateway from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from global_scheduler.decisions import CAPACITY, DecisionLog
from global_scheduler.health import HealthChecker
from global_scheduler.late_binding import LateBinding
from global_scheduler.provisioning.base import Latency, Provisioner, Quantity, Standby
from global_scheduler.provisioning.controller import Controller
from global_scheduler.provisioning.evidence import latencies
from global_scheduler.provisioning.local_process import LocalProcess
from global_scheduler.provisioning.loop import ProvisioningLoop, Surroundings
from global_scheduler.provisioning.metrics import ProvisioningMetrics
from global_scheduler.provisioning.ssh_command import SshCommand
from global_scheduler.provisioning.standby import (
    ProcessSpec,
    SshSpec,
    StandbyUnit,
)
from global_scheduler.provisioning.webhook import Webhook
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import UnitRegistry


def provisioning_loop(
    settings: GatewaySettings,
    listed: Sequence[StandbyUnit],
    units: UnitRegistry,
    health: HealthChecker,
    log: DecisionLog,
    late_binding: LateBinding,
    registry: CollectorRegistry,
    session: aiohttp.ClientSession,
) -> ProvisioningLoop:
    """The loop for the ``listed`` standby units, of which there may be none."""
    controller = Controller(
        settings.provisioning_rules, [Standby(unit.name, unit.model) for unit in listed]
    )
    around = Surroundings(
        units=units,
        health=health,
        latencies=latency_reader(
            controller,
            settings.provisioning_latency,
            log,
            late_binding,
            time.monotonic,
            time.time,
        ),
        places_of=late_binding.places_of,
        on_change=late_binding.wake,
        metrics=ProvisioningMetrics(registry),
        clock=time.monotonic,
    )

    def provisioner_of(unit: StandbyUnit) -> Provisioner:
        return _provisioner(unit, settings.standby_dir, session)

    return ProvisioningLoop(
        controller, listed, provisioner_of, around, keep=settings.keep_standby_units
    )


def _provisioner(unit: StandbyUnit, folder: Path, session: aiohttp.ClientSession) -> Provisioner:
    spec = unit.provisioner
    if isinstance(spec, ProcessSpec):
        return LocalProcess(unit.name, spec, folder)
    if isinstance(spec, SshSpec):
        return SshCommand(spec)
    return Webhook(unit, spec, session)


def latency_reader(
    controller: Controller,
    quantity: Quantity,
    log: DecisionLog,
    late_binding: LateBinding,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
) -> Callable[[], tuple[Latency, ...]]:
    """What the controller is told of requests: see ``evidence.latencies``."""

    def read() -> tuple[Latency, ...]:
        return latencies(
            controller.rules.mode,
            quantity,
            log.last(CAPACITY),
            late_binding.holding.waiting(),
            now_s=clock(),
            unix_now_s=wall_clock(),
        )

    return read
