"""Runs on a fleet of emulated engines behind the real gateway and sidecars, in real time.

Each run has a fleet of its own, so that none finds what another one has learnt or cached.
"""

from __future__ import annotations

import json
import random
import shlex
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

from exp.fleet.display import SilentDisplay
from exp.fleet.local import EmulatedUnit, emulated_unit_parts, emulated_units_plan
from exp.fleet.plan import Plan
from exp.fleet.temporary import free_port_offset, temporary_fleet
from exp.gateway_admin import Admin
from exp.study.backends.sending import refuse_what_only_the_twin_can, send_case
from exp.study.case import Case, Fleet
from exp.study.records import RequestRecord


def run_case(case: Case) -> list[RequestRecord]:
    """Start the fleet, send the workload, end the fleet.

    Raises:
        CaseError: the case asks for what only the twin can do.
        FleetError: the fleet does not start.
        WorkloadError, OSError: the workload cannot be built, or the gateway does not answer.
    """
    refuse_what_only_the_twin_can(case)
    with tempfile.TemporaryDirectory(prefix="astrolabe-case-") as folder:
        plan = plan_of(case, Path(folder))
        with temporary_fleet(plan, SilentDisplay()) as url:
            return send_case(case, Admin(url), is_emulated=True)


def plan_of(case: Case, folder: Path) -> Plan:
    """The case's fleet on free ports; files that it needs are written into the folder."""
    units = units_of(case.fleet, _model_config(case.fleet, folder))
    offset = free_port_offset(len(units), random.Random(uuid.uuid4().int))
    num_running = len(units) - case.fleet.num_standby
    options = {"seed": str(case.seed), **case.gateway}
    if case.lengths.kind == "running_mean":
        options["length_estimator"] = "none"
    if case.fleet.num_standby:
        standby = _standby(units, num_running, case.fleet.standby_start_s, offset)
        file = folder / "standby_units.json"
        file.write_text(json.dumps({"units": standby}))
        options |= {"standby_units": str(file), "standby_dir": str(folder / "standby")}
    return emulated_units_plan(units[:num_running], offset, options)


def units_of(fleet: Fleet, model_config: Path) -> list[EmulatedUnit]:
    """Group by group."""
    groups = [group for group in fleet.groups for _ in range(group.count)]
    return [
        EmulatedUnit(
            name=f"unit-{index:02d}",
            gpu=group.gpu,
            model_config=str(model_config),
            speed=group.speed,
        )
        for index, group in enumerate(groups, start=1)
    ]


def _model_config(fleet: Fleet, folder: Path) -> Path:
    path = Path(fleet.model_config)
    if fleet.prefix_caching is None:
        return path
    changed = json.loads(path.read_bytes()) | {"enable_prefix_caching": fleet.prefix_caching}
    written = folder / path.name
    written.write_text(json.dumps(changed))
    return written


def _standby(
    units: Sequence[EmulatedUnit], num_running: int, start_s: float, offset: int
) -> list[Mapping[str, object]]:
    """The last units, as a file of standby units has them; starting one takes its time."""
    found: list[Mapping[str, object]] = []
    for index, unit in enumerate(units[num_running:], start=num_running):
        engine, sidecar = emulated_unit_parts(index, unit, offset)
        delayed = f"sleep {start_s:g}; exec {shlex.join(engine.command)}"
        commands = [shlex.join(("sh", "-c", delayed)), shlex.join(sidecar.command)]
        found.append(
            {
                "name": unit.name,
                "engine_url": engine.url,
                "predictor_url": sidecar.url,
                "provisioner": {"kind": "process", "commands": commands},
            }
        )
    return found
