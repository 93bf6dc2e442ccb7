"""The steps of a deployment, the same ones for every host."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exp.fleet.bundle import pack
from exp.fleet.errors import FleetError
from exp.fleet.hosts import HostPlan
from exp.fleet.plan import to_json
from wire.host_config import HostConfigs

CHECK_TIMEOUT_S = 30.0
COPY_TIMEOUT_S = 300.0
INSTALL_TIMEOUT_S = 1800.0
STOP_TIMEOUT_S = 90.0
LIBRARIES = "aiohttp, fastapi, msgspec, pydantic, uvicorn"
"""What a host's own Python must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing done on a host."""

    name: str
    script: str
    timeout_s: float
    stdin: bytes = b""
    stdin_is: str = ""
    """For people; empty for none."""
    is_held: bool = False


def deployment_steps(
    plans: Sequence[HostPlan],
    configs: HostConfigs,
    project: Path,
    pip_args: str,
    start_timeout_s: float,
) -> list[list[Step]]:
    """For each host its steps, the same ones for all.

    Raises:
        FleetError: a model configuration lies outside the project, so it cannot be sent along.
    """
    models = {Path(node.model_config_path) for node in configs.nodes}
    for path in models:
        if path.is_absolute():
            raise FleetError(f"model_config: {path} must be relative to the project's folder")
    archive = pack(project, models)
    return [
        [
            _check_step(plan, project),
            _copy_step(plan, archive),
            _install_step(plan, pip_args),
            _start_step(plan, start_timeout_s),
        ]
        for plan in plans
    ]


def _check_step(plan: HostPlan, project: Path) -> Step:
    if plan.target.python:
        script = f"{plan.python} -c {shlex.quote(f'import {LIBRARIES}')}"
        return Step(name="check", script=script, timeout_s=CHECK_TIMEOUT_S)
    finder = project / "exp/find_python.sh"
    return Step(
        name="check",
        script="sh -s",
        timeout_s=CHECK_TIMEOUT_S,
        stdin=finder.read_bytes(),
        stdin_is="exp/find_python.sh",
    )


def _copy_step(plan: HostPlan, archive: bytes) -> Step:
    folder = plan.target.install_dir
    return Step(
        name="copy",
        script=f"mkdir -p {folder} && tar -xzf - -C {folder}",
        timeout_s=COPY_TIMEOUT_S,
        stdin=archive,
        stdin_is=f"the project, {len(archive) // 1024} KiB",
    )


def _install_step(plan: HostPlan, pip_args: str) -> Step:
    command = "bash exp/setup.sh --install-only --extras="
    if pip_args:
        command += f" --pip-args={shlex.quote(pip_args)}"
    script = "true" if plan.target.python else f"cd {plan.target.install_dir} && {command}"
    return Step(name="install", script=script, timeout_s=INSTALL_TIMEOUT_S)


def _start_step(plan: HostPlan, timeout_s: float) -> Step:
    return Step(
        name="start",
        script=f"cd {plan.target.install_dir} &&"
        f" exec {plan.python} -m exp.fleet.node up --start-timeout {timeout_s:g}",
        timeout_s=timeout_s + STOP_TIMEOUT_S,
        stdin=to_json(plan.plan).encode() + b"\n",
        stdin_is=to_json(plan.plan),
        is_held=True,
    )


def node_script(plan: HostPlan, action: str) -> str:
    """Ask for an action where something was deployed; an empty list elsewhere."""
    folder = plan.target.install_dir
    return (
        f"cd {folder} 2>/dev/null && [ -f .astrolabe/fleet/fleet.json ] || {{ echo '[]'; exit; }};"
        f" exec {plan.python} -m exp.fleet.node {action}"
    )
