"""Fleets on this machine: what runs in them."""

from __future__ import annotations

import sys

from exp.fleet.plan import Part, Plan

FIRST_ENGINE_PORT = 8001
FIRST_SIDECAR_PORT = 8101
GATEWAY_PORT = 8200
EMULATED_MODEL_CONFIG = "config/llama_config.json"
EMULATED_GPU = "A30"
EMULATED_NOISE = 0.05
"""Relative deviation of emulated step times, so that predictions have something to miss."""


def emulated_plan(num_units: int, speed: float, port_offset: int) -> Plan:
    """Emulated engines with their sidecars, and the gateway."""
    parts = []
    for index in range(num_units):
        engine = _emulator(index, speed, port_offset)
        parts += [engine, _sidecar(index, engine, EMULATED_MODEL_CONFIG, EMULATED_GPU, port_offset)]
    label = f"{num_units} emulated units"
    return Plan(label=label, parts=(*parts, _gateway(parts, port_offset)))


def _emulator(index: int, speed: float, port_offset: int) -> Part:
    name = f"unit-{index + 1}"
    port = FIRST_ENGINE_PORT + index + port_offset
    options = {
        "--port": str(port),
        "--model-config": EMULATED_MODEL_CONFIG,
        "--gpu": EMULATED_GPU,
        "--noise": str(EMULATED_NOISE),
        "--seed": str(index + 1),
        "--speed": str(speed),
        "--engine-id": name,
    }
    command = _python_module("exp.emulator", options)
    return Part(role="engine", name=name, command=command, url=_local_url(port))


def _sidecar(index: int, engine: Part, model_config: str, gpu: str, port_offset: int) -> Part:
    port = FIRST_SIDECAR_PORT + index + port_offset
    options = {
        "--port": str(port),
        "--engine-url": engine.url,
        "--engine-id": engine.name,
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


def _gateway(parts: list[Part], port_offset: int) -> Part:
    port = GATEWAY_PORT + port_offset
    engines = [part for part in parts if part.role == "engine"]
    sidecars = {part.name: part for part in parts if part.role == "sidecar"}
    units = [f"--unit={part.name}={part.url},{sidecars[part.name].url}" for part in engines]
    command = (*_python_module("global_scheduler", {"--port": str(port)}), *units)
    return Part(role="gateway", name="gateway", command=command, url=_local_url(port))


def _python_module(module: str, options: dict[str, str]) -> tuple[str, ...]:
    words = [word for option in options.items() for word in option]
    return (sys.executable, "-m", *module.split(), *words)


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
