"""The cluster file, ``config/host_configs.json``: hosts, their units and where the gateway runs."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    model_validator,
)

from wire.model_config import ConfigError, ModelConfig, load_config, load_model_config

PLACEHOLDERS = frozenset(
    {
        *("port", "engine_id", "gpu_type", "python", "model", "model_config", "max_model_len"),
        *("max_num_seqs", "max_num_batched_tokens", "tensor_parallel_size"),
    }
)
"""What ``vllm_command`` may refer to."""
CONNECT_TIMEOUT_S = 10
"""Of ssh."""
CHOSEN_BY_DEPLOYMENT = frozenset({"host", "port", "unit", "hosts"})
"""Settings of the gateway that its options may not name."""


def _is_host_name(value: str) -> str:
    return _matching(
        value, r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", "a host name or IPv4 address"
    )


def _is_user_name(value: str) -> str:
    return _matching(value, r"[A-Za-z_][A-Za-z0-9._-]*", "a user name")


def _is_path(value: str) -> str:
    """A path that no shell and no option parser reads as anything else."""
    if ".." in Path(value).parts:
        raise ValueError("must not contain '..'")
    return _matching(
        value, r"[A-Za-z0-9_./][A-Za-z0-9_.+@/-]*", "a plain path (without ~ and spaces)"
    )


def _is_server_command(value: str) -> str:
    if not shlex.split(value):
        raise ValueError("must not be empty")
    unknown = set(re.findall(r"\{(\w*)\}", value)) - PLACEHOLDERS
    if unknown:
        known = ", ".join(sorted(PLACEHOLDERS))
        raise ValueError(f"unknown placeholder {{{sorted(unknown)[0]}}}; known are: {known}")
    return value


def _is_setting(value: str) -> str:
    if value in CHOSEN_BY_DEPLOYMENT:
        raise ValueError("follows from the rest of this file")
    return _matching(value, r"[a-z][a-z0-9_]*", "the name of a setting of the gateway")


def _matching(value: str, pattern: str, what: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(f"must be {what}")
    return value


HostName = Annotated[str, AfterValidator(_is_host_name)]
UserName = Annotated[str, AfterValidator(_is_user_name)]
PlainPath = Annotated[str, AfterValidator(_is_path)]
ServerCommand = Annotated[str, AfterValidator(_is_server_command)]
SettingName = Annotated[str, AfterValidator(_is_setting)]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SshLogin(_Strict):
    """How a host is reached."""

    user: UserName | None = Field(default=None, description="ssh's own choice when absent")
    ssh_port: Port | None = Field(default=None, description="ssh's own choice when absent")
    identity_file: PlainPath | None = None

    def argv(self, hostname: str, script: str, ssh_config: Path | None = None) -> list[str]:
        """The ssh command line that runs a POSIX shell script there, without questions asked."""
        options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_TIMEOUT_S}", "ServerAliveInterval=15"]
        words = ["ssh", *(word for option in options for word in ("-o", option))]
        if ssh_config:
            words += ["-F", str(ssh_config)]
        if self.ssh_port:
            words += ["-p", str(self.ssh_port)]
        if self.identity_file:
            words += ["-i", self.identity_file, "-o", "IdentitiesOnly=yes"]
        user = f"{self.user}@" if self.user else ""
        # The login shell may be any; the script is for sh.
        return [*words, "--", f"{user}{hostname}", f"sh -c {shlex.quote(script)}"]


class SshTarget(SshLogin):
    """How a host is reached and where Astrolabe lives on it."""

    install_dir: PlainPath = Field(
        default="astrolabe", description="a relative path starts at the user's home"
    )
    python: PlainPath | None = Field(
        default=None,
        description="has all libraries already; absent, a virtual environment is made",
    )


class Node(SshTarget):
    """A host with units: as many as its GPUs hold of the model."""

    hostname: HostName
    gpu_type: str = Field(min_length=1)
    num_gpus: PositiveInt
    model_config_path: PlainPath = Field(
        default="config/llama_config.json",
        alias="model_config",
        description="in the project's folder",
    )
    vllm_command: ServerCommand | None = Field(
        default=None,
        description="starts the vLLM server of a unit; absent, it is expected to run already",
    )
    vllm_port: Port | None = Field(
        default=None, description="of its first unit; the cluster's when absent"
    )
    predictor_port: Port | None = Field(
        default=None, description="of its first unit's sidecar; the cluster's when absent"
    )
    worker_concurrency_limit: PositiveInt | None = Field(
        default=None,
        description="requests at a time on each of its units; the gateway's own limit when absent",
    )
    worker_concurrency_limits: dict[str, PositiveInt] = Field(
        default_factory=dict, description="the same for single units, by name"
    )


class Scheduler(SshTarget):
    """Where the gateway runs: on a node (whose settings then hold) or on a host of its own."""

    hostname: HostName | None = Field(default=None, description="the first node when absent")
    port: Port = 8200
    policy: str | None = Field(default=None, description="the gateway's own choice when absent")
    options: dict[SettingName, str | int | float | bool] = Field(
        default_factory=dict,
        description="more settings of the gateway, by their names; it checks them when it starts",
    )


@dataclass(frozen=True, slots=True)
class UnitAddress:
    """One unit of the cluster."""

    name: str
    hostname: str
    index: int
    """From 0, on its host."""
    engine_port: int
    predictor_port: int
    concurrency_limit: int | None = None
    """Requests at a time; None leaves it to the gateway."""

    @property
    def engine_url(self) -> str:
        """The vLLM server, as other hosts reach it."""
        return f"http://{self.hostname}:{self.engine_port}"

    @property
    def predictor_url(self) -> str:
        """The sidecar, as other hosts reach it."""
        return f"http://{self.hostname}:{self.predictor_port}"


class HostConfigs(_Strict):
    """A cluster. ``vllm_port`` and ``predictor_port`` are those of each host's first unit; the next
    units get the ports that follow."""

    nodes: list[Node] = Field(min_length=1)
    predictor_port: Port = 8101
    vllm_port: Port = 8001
    scheduler: Scheduler = Scheduler()
    bind_address: HostName = Field(
        default="0.0.0.0", description="where sidecars and the gateway listen"
    )

    @model_validator(mode="after")
    def _hostnames_differ(self) -> HostConfigs:
        names = [node.hostname for node in self.nodes]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ValueError(f"hostname {doubled[0]!r} stands for two nodes")
        return self

    @property
    def scheduler_hostname(self) -> str:
        """Where the gateway runs."""
        return self.scheduler.hostname or self.nodes[0].hostname

    def units_of(self, node: Node, model: ModelConfig) -> list[UnitAddress]:
        """The units on a host: as many as fit, given how many GPUs one takes.

        Raises:
            ConfigError: the host has too few GPUs for the model, or a limit is for another's unit.
        """
        num_units = node.num_gpus // gpus_per_unit(model)
        if num_units == 0:
            raise ConfigError(
                f"{node.hostname}: num_gpus is {node.num_gpus}, but one unit of {model.model_name}"
                f" takes {gpus_per_unit(model)} (tensor_parallel_size {model.tensor_parallel_size}"
                f" x pipeline_parallel_size {model.pipeline_parallel_size})"
            )
        vllm_port = node.vllm_port or self.vllm_port
        predictor_port = node.predictor_port or self.predictor_port
        names = [f"{node.hostname}-{index + 1}" for index in range(num_units)]
        limits = node.worker_concurrency_limits
        if unknown := sorted(limits.keys() - set(names)):
            raise ConfigError(
                f"{node.hostname}: worker_concurrency_limits: there is no unit {unknown[0]!r};"
                f" its units are {', '.join(names)}"
            )
        return [
            UnitAddress(
                name=name,
                hostname=node.hostname,
                index=index,
                engine_port=vllm_port + index,
                predictor_port=predictor_port + index,
                concurrency_limit=limits.get(name, node.worker_concurrency_limit),
            )
            for index, name in enumerate(names)
        ]

    def units(self, project: Path = Path()) -> list[UnitAddress]:
        """All units; the model configurations are read from the project's folder.

        Raises:
            ConfigError: a model configuration cannot be used, or a host has too few GPUs.
        """
        return [
            unit
            for node in self.nodes
            for unit in self.units_of(node, load_model_config(project / node.model_config_path))
        ]


def gpus_per_unit(model: ModelConfig) -> int:
    """GPUs that one unit of this model takes."""
    return model.tensor_parallel_size * model.pipeline_parallel_size


def load_host_configs(path: Path) -> HostConfigs:
    """Read and check a cluster file.

    Raises:
        ConfigError: the file is missing, is not JSON, or has a wrong or unknown key.
    """
    return load_config(path, HostConfigs)
