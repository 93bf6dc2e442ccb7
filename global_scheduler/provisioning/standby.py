"""The file of standby units: which there are, where they answer, and how each is started.

An example is ``config/standby_units.json``.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    model_validator,
)

from wire.bounded_numbers import BoundedNumbers
from wire.host_config import HostName, PlainPath, SshLogin
from wire.model_config import ConfigError, load_config


def _is_command(value: str) -> str:
    if not shlex.split(value):
        raise ValueError("must not be empty")
    return _is_text(value)


def _is_text(value: str) -> str:
    if "\0" in value:
        raise ValueError("must not contain NUL")
    value.encode()  # a lone surrogate, which no answer or command could hold, is a ValueError
    return value


Command = Annotated[str, AfterValidator(_is_command)]
Text = Annotated[str, AfterValidator(_is_text)]
EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$")]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s]+")]
UnitName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class _Strict(BoundedNumbers):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ProcessSpec(_Strict):
    """Processes on the gateway's machine, each with a process group and a log of its own."""

    kind: Literal["process"]
    commands: list[Command] = Field(
        min_length=1, description="the engine's and the sidecar's; no shell reads them"
    )
    cwd: Path = Path()
    env: dict[EnvName, Text] = Field(default_factory=dict, description="added to the gateway's")


class SshSpec(SshLogin):
    """Shell commands on another host. They must return: ``systemctl start vllm@8001``."""

    kind: Literal["ssh"]
    hostname: HostName
    start: Command
    stop: Command
    timeout_s: PositiveFloat = 60.0
    ssh_config: PlainPath | None = Field(default=None, description="for ssh -F")


class WebhookSpec(_Strict):
    """A service that is sent ``{"action": "start"|"stop", "unit": NAME}`` and answers 2xx."""

    kind: Literal["webhook"]
    url: Url
    headers: dict[HeaderName, SecretStr] = Field(default_factory=dict)
    timeout_s: PositiveFloat = 30.0


class StandbyUnit(_Strict):
    """A unit that runs only when it is needed."""

    name: UnitName
    engine_url: Url
    predictor_url: Url | None = None
    model: Text | None = Field(
        default=None, description="started only when requests for it are late; absent: for any"
    )
    worker_concurrency_limit: PositiveInt | None = None
    provisioner: ProcessSpec | SshSpec | WebhookSpec = Field(discriminator="kind")


class StandbyUnits(_Strict):
    """All standby units; the first ones are started first and stopped last."""

    units: list[StandbyUnit] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> StandbyUnits:
        check_different(self.units)
        return self


def check_different(units: Collection[StandbyUnit]) -> None:
    """See that no two units are the same.

    Raises:
        ValueError: two have a name or an engine in common.
    """
    for key in ("name", "engine_url"):
        values = [getattr(unit, key) for unit in units]
        if doubled := sorted({value for value in values if values.count(value) > 1}):
            raise ValueError(f"two units have the {key} {doubled[0]!r}")


def load_standby_units(path: Path | None, taken: Collection[str]) -> list[StandbyUnit]:
    """Read and check a file of standby units; none without a file.

    Raises:
        ConfigError: the file is missing, is not JSON, or has a wrong or unknown key, or a unit has
            a name that is ``taken``.
    """
    units = load_config(path, StandbyUnits).units if path else []
    check_names(units, taken, f"{path}: units")
    return units


def check_names(units: Sequence[StandbyUnit], taken: Collection[str], where: str) -> None:
    """See that no standby unit has the name of another unit.

    Raises:
        ConfigError: one has a name that is ``taken``; says ``where`` in the list.
    """
    for index, unit in enumerate(units):
        if unit.name in taken:
            raise ConfigError(f"{where}.{index}.name: {unit.name!r} is a unit already")
