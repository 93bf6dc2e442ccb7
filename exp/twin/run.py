"""Runs a case on the digital twin."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from exp.study.case import Case, Failure
from exp.study.records import RequestRecord
from exp.twin.beliefs import Beliefs
from exp.twin.clock import VirtualLoop, run_virtually
from exp.twin.engines import Engines, EngineSpec
from exp.twin.fleet import TwinFleet
from exp.twin.gateway import TwinGateway
from exp.twin.sidecar import TwinSidecar
from exp.twin.units import UnitSpec, unit_specs
from exp.workloads.build import build_workload
from exp.workloads.request import WorkloadRequest
from global_scheduler.settings import GatewaySettings
from global_scheduler.settings.sources import SourceWithOtherNames


class CaseSettings(GatewaySettings):
    """The gateway's settings; the environment of whoever runs a study changes no result."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What a case says, and defaults."""
        return (SourceWithOtherNames(init_settings),)


def run_case(
    case: Case,
    requests: Sequence[WorkloadRequest] | None = None,
    specs: Sequence[UnitSpec] | None = None,
) -> list[RequestRecord]:
    """Play one case to its end; one record for each request, by arrival.

    Args:
        case: what to play.
        requests: in place of the workload that the case describes.
        specs: in place of its fleet's units.

    Raises:
        ConfigError: the model's configuration cannot be used, or a GPU is unknown or too small.
        pydantic.ValidationError: the case names a setting that the gateway has not.
    """
    if requests is None:
        requests = build_workload(case.workload, case.rate_per_s, case.seed)
    units = unit_specs(case) if specs is None else list(specs)
    with _garbage_seldom_collected():
        return run_virtually(partial(_play, case, requests, units))


@contextmanager
def _garbage_seldom_collected() -> Iterator[None]:
    """A run makes little garbage in cycles, and many objects that would be looked through."""
    thresholds = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


async def _play(
    case: Case, requests: Sequence[WorkloadRequest], specs: list[UnitSpec], loop: VirtualLoop
) -> list[RequestRecord]:
    engines = Engines(
        [EngineSpec(spec.limits, spec.table, case.twin.step_noise) for spec in specs],
        seed=case.seed,
    )
    sidecars = [
        TwinSidecar(
            engines,
            index,
            spec.believed_table,
            state_interval_s=case.twin.state_interval_s,
            is_calibrated=case.twin.is_calibrated,
        )
        for index, spec in enumerate(specs)
    ]
    fleet = TwinFleet(
        engines,
        sidecars,
        [spec.name for spec in specs],
        network_s=case.twin.network_ms / 1e3,
    )
    loop.live_in(fleet)
    settings = CaseSettings.model_validate({"worker_concurrency_limit": "none", **case.gateway})
    gateway = TwinGateway(case, settings, specs, fleet, Beliefs(case.lengths, requests, case.seed))
    beside = [asyncio.ensure_future(run()) for run in gateway.background()]
    beside += [asyncio.ensure_future(_suffer(fleet, specs, one)) for one in case.twin.failures]
    try:
        await gateway.warm_up()
        return await _serve(loop, gateway, requests)
    finally:
        await _end(beside)
        await gateway.close()


async def _serve(
    loop: VirtualLoop, gateway: TwinGateway, requests: Sequence[WorkloadRequest]
) -> list[RequestRecord]:
    """Send each request at its time, and wait for all answers."""
    served: list[asyncio.Task[RequestRecord]] = []
    try:
        for index, request in enumerate(requests):
            await asyncio.sleep(request.at_s - loop.time())
            served.append(asyncio.ensure_future(gateway.serve(index, request)))
        return await asyncio.gather(*served)
    finally:
        await _end(served)


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Those that have not ended are cancelled; what any of them raised is of no interest now."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _suffer(fleet: TwinFleet, specs: Sequence[UnitSpec], failure: Failure) -> None:
    """A unit dies and comes back; health checks will tell."""
    unit = specs[failure.unit].name
    await asyncio.sleep(failure.at_s)
    fleet.fail(unit)
    await asyncio.sleep(failure.for_s)
    fleet.recover(unit)
