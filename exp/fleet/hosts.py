"""What should run on each host of a cluster."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from exp.fleet.plan import Part, Plan, gateway_flags
from wire.host_config import PLACEHOLDERS, HostConfigs, Node, SshTarget, UnitAddress, gpus_per_unit
from wire.model_config import ModelConfig, load_model_config

VENV_PYTHON = ".venv/bin/python"


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host, how to reach it, and its parts."""

    hostname: str
    target: SshTarget
    plan: Plan

    @property
    def python(self) -> str:
        """The interpreter there, as seen from the folder of the installation."""
        return self.target.python or VENV_PYTHON

    @property
    def num_ours(self) -> int:
        """The parts that a deployment starts."""
        return sum(part.is_ours for part in self.plan.parts)


def host_plans(configs: HostConfigs, project: Path) -> list[HostPlan]:
    """One plan for each host, the gateway with those of its host.

    Raises:
        ConfigError: a model configuration cannot be used, or a host has too few GPUs.
    """
    plans = []
    for node in configs.nodes:
        model = load_model_config(project / node.model_config_path)
        plans.append(HostPlan(node.hostname, node, _plan(node_parts(configs, node, model))))
    hostname = configs.scheduler_hostname
    for index, plan in enumerate(plans):
        if plan.hostname == hostname:
            gateway = _gateway(configs, plan.python, configs.units(project))
            plans[index] = HostPlan(hostname, plan.target, _plan([*plan.plan.parts, gateway]))
            return plans
    python = configs.scheduler.python or VENV_PYTHON
    gateway = _gateway(configs, python, configs.units(project))
    return [*plans, HostPlan(hostname, configs.scheduler, _plan([gateway]))]


def _plan(parts: list[Part]) -> Plan:
    return Plan(label=", ".join(part.title for part in parts), parts=tuple(parts))


def _unit_name(unit: UnitAddress) -> str:
    return unit.name


def node_parts(
    configs: HostConfigs,
    node: Node,
    model: ModelConfig,
    engine_id_of: Callable[[UnitAddress], str] = _unit_name,
) -> list[Part]:
    """The engines and sidecars of a host; ``engine_id_of`` names what an engine publishes.

    Raises:
        ConfigError: the host has too few GPUs for the model.
    """
    parts = []
    for unit in configs.units_of(node, model):
        engine = _engine(node, unit, model, engine_id_of(unit))
        parts += [engine, _sidecar(configs, node, unit, engine.engine_id)]
    return parts


def _engine(node: Node, unit: UnitAddress, model: ModelConfig, engine_id: str) -> Part:
    values = {
        "port": unit.engine_port,
        "engine_id": engine_id,
        "gpu_type": node.gpu_type,
        "python": node.python or VENV_PYTHON,
        "model": model.model_name,
        "model_config": node.model_config_path,
        "max_model_len": model.max_model_len,
        "max_num_seqs": model.max_batch_size,
        "max_num_batched_tokens": model.chunk_size,
        "tensor_parallel_size": model.tensor_parallel_size,
    }
    assert values.keys() == PLACEHOLDERS, "host files are checked against these names"
    words = [_filled(word, values) for word in shlex.split(node.vllm_command or "")]
    first = unit.index * gpus_per_unit(model)
    devices = ",".join(str(first + index) for index in range(gpus_per_unit(model)))
    return Part(
        role="engine",
        name=unit.name,
        command=tuple(words),
        url=_local_url(unit.engine_port),
        # The plug-in is imported from the installation, whatever environment vLLM runs in.
        env={
            "CUDA_VISIBLE_DEVICES": devices,
            "PYTHONPATH": ".",
            "ASTROLABE_ENGINE_ID": engine_id,
        },
        engine_id=engine_id,
    )


def _filled(word: str, values: Mapping[str, object]) -> str:
    """The word with its placeholders replaced; other braces (JSON options) stay as they are."""
    for key, value in values.items():
        word = word.replace(f"{{{key}}}", str(value))
    return word


def _sidecar(configs: HostConfigs, node: Node, unit: UnitAddress, engine_id: str) -> Part:
    command = [node.python or VENV_PYTHON, "-m", "predictor", "serve"]
    command += ["--host", configs.bind_address, "--port", str(unit.predictor_port)]
    command += ["--engine-url", _local_url(unit.engine_port), "--engine-id", engine_id]
    command += ["--model-config", node.model_config_path, "--gpu", node.gpu_type]
    return Part(
        role="sidecar",
        name=unit.name,
        command=tuple(command),
        url=_local_url(unit.predictor_port),
        health_path="/ready",
    )


def _gateway(configs: HostConfigs, python: str, units: list[UnitAddress]) -> Part:
    port = configs.scheduler.port
    command = [python, "-m", "global_scheduler"]
    command += ["--host", configs.bind_address, "--port", str(port)]
    if configs.scheduler.policy:
        command += ["--policy", configs.scheduler.policy]
    command += gateway_flags(configs.scheduler.options)
    command += [f"--unit={_unit(address)}" for address in units]
    return Part(role="gateway", name="gateway", command=tuple(command), url=_local_url(port))


def _unit(address: UnitAddress) -> str:
    limit = f"@{address.concurrency_limit}" if address.concurrency_limit else ""
    return f"{address.name}{limit}={address.engine_url},{address.predictor_url}"


def _local_url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
