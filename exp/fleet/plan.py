"""What should run on one machine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

Role = Literal["engine", "sidecar", "gateway"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One process of a fleet, or, with an empty ``command``, a server that someone else runs."""

    role: Role
    name: str
    """The unit's name, or ``gateway``."""
    command: tuple[str, ...]
    url: str
    """Where it answers, such as ``http://127.0.0.1:8001``."""
    health_path: str = "/health"
    """Answers 200 as soon as the part can do its work."""
    env: dict[str, str] = field(default_factory=dict)
    """Added to the environment of the process that starts it."""
    engine_id: str = ""
    """Under which an engine publishes its snapshots; empty for other parts."""

    @property
    def title(self) -> str:
        """How people are told of it."""
        return self.name if self.role == self.name else f"{self.role} {self.name}"

    @property
    def port(self) -> int:
        """The port of ``url``."""
        port = urlsplit(self.url).port
        assert port is not None, "every part is planned with a port"
        return port

    @property
    def is_ours(self) -> bool:
        """Whether we start and stop it."""
        return bool(self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that should run on one machine; two equal plans are the same fleet."""

    label: str
    """For people: ``4 emulated units``."""
    parts: tuple[Part, ...]


def to_json(plan: Plan) -> str:
    """One line, for a remote machine or a state file."""
    return json.dumps(dataclasses.asdict(plan))


def from_json(text: str) -> Plan:
    """The reverse of ``to_json``.

    Raises:
        ValueError, KeyError or TypeError: the text is no plan.
    """
    data = json.loads(text)
    return Plan(label=data["label"], parts=tuple(part_from(item) for item in data["parts"]))


def part_from(item: dict[str, Any]) -> Part:
    """A part from its JSON object."""
    return Part(**{**item, "command": tuple(item["command"])})


def gateway_flags(options: Mapping[str, str | float]) -> tuple[str, ...]:
    """Settings of the gateway, by their names, as its command line takes them."""
    return tuple(
        f"--{name.replace('_', '-')}={json.dumps(value) if isinstance(value, bool) else value}"
        for name, value in options.items()
    )
