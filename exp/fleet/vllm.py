"""The vLLM on a host: looked at, and where that is asked for installed, before anything starts."""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

from exp.fleet.errors import FleetError
from exp.fleet.hosts import HostPlan
from predictor.vllm_plugin import OLDEST_VLLM, TESTED_VLLM


def engine_programs(plan: HostPlan) -> list[str]:
    """What runs vLLM with Astrolabe's plug-in in the commands of a host's engines.

    It is ``vllm``, a path to it, or the Python of ``python -m vllm...``; none for servers that run
    already and for commands in which no vLLM can be seen.
    """
    commands = [part.command for part in plan.plan.parts if part.role == "engine"]
    programs = [_program(command) for command in commands if _loads_plugin(command)]
    return sorted({program for program in programs if program})


def _loads_plugin(command: tuple[str, ...]) -> bool:
    return any("predictor.vllm_plugin" in word for word in command)


def _program(command: tuple[str, ...]) -> str | None:
    for index, word in enumerate(command):
        if PurePosixPath(word).name == "vllm":
            return word
        if index and word == "-m" and "".join(command[index + 1 : index + 2]).startswith("vllm."):
            return command[index - 1]
    return None


def check_script(plan: HostPlan) -> str:
    """Ends with an error when the vLLM of an engine is older than the plug-in takes, or missing.

    Reads ``exp/check_vllm.sh`` from stdin, so that nothing need be on the host.
    """
    words = ["sh", "-s", "--", OLDEST_VLLM, TESTED_VLLM, plan.target.install_dir]
    programs = engine_programs(plan)
    return shlex.join([*words, *programs]) if programs else "true"


def install_script(plan: HostPlan, pip_args: str) -> str:
    """Installs vLLM in an environment of its own beside the project's, and looks at it.

    Raises:
        FleetError: an engine's command would not run what is installed.
    """
    programs = engine_programs(plan)
    for program in programs:
        if program != "vllm":
            raise FleetError(
                f"{plan.hostname}: --install-vllm is for a vllm_command that starts with `vllm`;"
                f" this one runs {program}"
            )
    if not programs:
        return "true"
    python = f"PYTHON={plan.python} " if plan.target.python else ""
    install = shlex.join(["bash", "exp/install_vllm.sh", TESTED_VLLM, *filter(None, [pip_args])])
    check = shlex.join(["sh", "exp/check_vllm.sh", OLDEST_VLLM, TESTED_VLLM, ".", *programs])
    return f"cd {plan.target.install_dir} && {python}{install} && {check}"


def checker(project: Path) -> bytes:
    """The script that ``check_script`` reads."""
    return (project / "exp/check_vllm.sh").read_bytes()
