"""The steps of a deployment, the same ones for every host."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from exp.fleet.bundle import pack
from exp.fleet.errors import FleetError
from exp.fleet.hosts import HostPlan
from exp.fleet.plan import to_json
from exp.fleet.tokens import Token, described, to_line, tokens_for
from exp.fleet.vllm import check_script, checker, install_script
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
    stdin: bytes = field(default=b"", repr=False)
    stdin_is: str = ""
    """For people; empty for none."""
    is_held: bool = False


def deployment_steps(
    plans: Sequence[HostPlan],
    configs: HostConfigs,
    project: Path,
    *,
    tokens: Sequence[Token] = (),
    pip_args: str = "",
    installs_vllm: bool = False,
    start_timeout_s: float,
) -> list[list[Step]]:
    """For each host its steps, the same ones for all.

    Raises:
        FleetError: a model configuration lies outside the project, so it cannot be sent along; or
            vLLM is to be installed where the engines would run another.
    """
    models = {Path(node.model_config_path) for node in configs.nodes}
    for path in models:
        if path.is_absolute():
            raise FleetError(f"model_config: {path} must be relative to the project's folder")
    archive = pack(project, models, without=[token.file for token in tokens if token.file])
    steps = []
    for plan in plans:
        check, copy = _check_step(plan, project), _copy_step(plan, archive)
        install = _install_step(plan, pip_args)
        if installs_vllm:
            before = [check, copy, install, _vllm_install_step(plan, pip_args)]
        else:
            before = [check, _vllm_check_step(plan, project), copy, install]
        steps.append([*before, _start_step(plan, tokens_for(plan.plan, tokens), start_timeout_s)])
    return steps


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


def _vllm_check_step(plan: HostPlan, project: Path) -> Step:
    script = check_script(plan)
    has_work = script != "true"
    return Step(
        name="vllm",
        script=script,
        timeout_s=CHECK_TIMEOUT_S,
        stdin=checker(project) if has_work else b"",
        stdin_is="exp/check_vllm.sh" if has_work else "",
    )


def _vllm_install_step(plan: HostPlan, pip_args: str) -> Step:
    return Step(name="vllm", script=install_script(plan, pip_args), timeout_s=INSTALL_TIMEOUT_S)


def _start_step(plan: HostPlan, tokens: Sequence[Token], timeout_s: float) -> Step:
    return Step(
        name="start",
        script=f"cd {plan.target.install_dir} &&"
        f" exec {plan.python} -m exp.fleet.node up --start-timeout {timeout_s:g}",
        timeout_s=timeout_s + STOP_TIMEOUT_S,
        stdin=f"{to_json(plan.plan)}\n{to_line(tokens)}\n".encode(),
        stdin_is=f"{to_json(plan.plan)}, then {described(tokens)}",
        is_held=True,
    )


def node_script(plan: HostPlan, action: str) -> str:
    """Ask for an action where something was deployed; an empty list elsewhere."""
    folder = plan.target.install_dir
    return (
        f"cd {folder} 2>/dev/null && [ -f .astrolabe/fleet/fleet.json ] || {{ echo '[]'; exit; }};"
        f" exec {plan.python} -m exp.fleet.node {action}"
    )
