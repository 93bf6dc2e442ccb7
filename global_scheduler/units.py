"""The units that the gateway knows, and which of them may take a request."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from global_scheduler.errors import BadRequest, Conflict, NotFound
from global_scheduler.prefixes import HeldPrefixes
from global_scheduler.queueing.tickets import NOTHING_KNOWN, EngineFacts
from wire.bounded_numbers import try_count

ModelCard = dict[str, Any]
NAME = re.compile(r"(?=[._-]*[A-Za-z0-9])[A-Za-z0-9._-]{1,64}")
"""Of a unit: what every header, metric and path can hold."""
FAILURES_TO_LEAVE = 2
"""Failed health checks in a row after which a unit leaves the candidates."""


@dataclass(slots=True, eq=False)
class Unit:
    """One engine with its sidecar. ``predictor_url`` is None for an engine without one."""

    name: str
    engine_url: str
    predictor_url: str | None = None
    draining: bool = False
    healthy: bool = False
    models: dict[str, ModelCard] = field(default_factory=dict)
    """The engine's own model cards, by model id."""
    health_failures: int = 0
    last_error: str | None = "not checked yet"
    outstanding: set[str] = field(default_factory=set)
    """Ids of this gateway's requests in flight on the unit."""
    num_outstanding_tokens: float = 0.0
    last_sent_s: float = float("-inf")
    """When a request was last sent to it, on the gateway's clock."""
    last_ended_s: float = float("-inf")
    """When one of them last ended."""
    concurrency_limit: int | None = None
    """Requests at a time; None: what holds for all units."""
    prefixes: HeldPrefixes = field(default_factory=HeldPrefixes)
    """What its prefix cache probably holds."""
    num_uncached_tokens: int = 0
    """Prompt tokens to compute for requests in flight without a first token."""
    peak_prefill_tokens_per_s: float | None = None
    """Seen of late; None until a prompt long enough has been."""
    engine: EngineFacts = NOTHING_KNOWN
    """What its sidecar last said of its engine."""

    def check_passed(self, models: dict[str, ModelCard]) -> None:
        """The engine answers: the unit is a candidate."""
        self.healthy, self.models = True, models
        self.health_failures, self.last_error = 0, None

    def check_failed(self, reason: str) -> None:
        """A health check failed; enough of them in a row take the unit out."""
        self.health_failures += 1
        self.last_error = reason
        if self.health_failures >= FAILURES_TO_LEAVE:
            self._leave()

    def refused(self, reason: str) -> None:
        """The engine refused a connection: out at once, until a health check passes."""
        self.health_failures, self.last_error = FAILURES_TO_LEAVE, reason
        self._leave()

    def _leave(self) -> None:
        self.healthy = False
        self.prefixes.forget()
        self.engine = NOTHING_KNOWN


class UnitRegistry:
    """Units by name."""

    def __init__(self, units: Iterable[Unit] = ()) -> None:
        self._units: dict[str, Unit] = {}
        self._sorted: list[Unit] = []
        for unit in units:
            self.add(unit)

    def add(self, unit: Unit) -> None:
        """Register a unit.

        Raises:
            Conflict: the name is taken.
        """
        if unit.name in self._units:
            raise Conflict(f"unit {unit.name!r} is registered already", param="name")
        self._units[unit.name] = unit
        self._sorted = sorted(self._units.values(), key=lambda one: one.name)

    def get(self, name: str) -> Unit:
        """The unit of that name.

        Raises:
            NotFound: there is none.
        """
        try:
            return self._units[name]
        except KeyError:
            raise NotFound(f"no unit {name!r}", param="name") from None

    def remove(self, name: str) -> Unit:
        """Forget a unit; its requests in flight go on."""
        unit = self.get(name)
        # A decision under way may hold the unit still.
        unit.draining = True
        del self._units[name]
        self._sorted.remove(unit)
        return unit

    def all(self) -> list[Unit]:
        """Every unit, sorted by name."""
        return self._sorted.copy()

    def eligible(self, model: str | None) -> list[Unit]:
        """Healthy units that do not drain and serve ``model`` (None: any), sorted by name."""
        return [
            unit
            for unit in self._sorted
            if unit.healthy and not unit.draining and (model is None or model in unit.models)
        ]

    def models(self) -> dict[str, ModelCard]:
        """The cards of every model that some unit, healthy or not, has listed."""
        return {name: card for unit in self.all() for name, card in unit.models.items()}


def parse_unit(text: str) -> Unit:
    """``NAME[@LIMIT]=ENGINE_URL[,PREDICTOR_URL]``, as ``--unit`` takes it.

    Raises:
        BadRequest: the text has another form or a URL is not http(s).
    """
    name_and_limit, equals, urls = text.partition("=")
    name, at, limit = name_and_limit.strip().partition("@")
    engine_url, _, predictor_url = urls.partition(",")
    if not equals or not name or not engine_url or (at and try_count(limit) is None):
        raise BadRequest(f"unit {text!r} must look like NAME[@LIMIT]=ENGINE_URL[,PREDICTOR_URL]")
    return new_unit(name, engine_url.strip(), predictor_url.strip() or None, try_count(limit))


def new_unit(
    name: str,
    engine_url: str,
    predictor_url: str | None,
    concurrency_limit: int | None = None,
) -> Unit:
    """A unit with checked URLs.

    Raises:
        BadRequest: the name is not a plain word or a URL is not http(s)://host[:port].
    """
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"unit name {name!r} must be ASCII letters, digits, '-', '_', '.', at most 64 of them",
            param="name",
        )
    return Unit(
        name,
        _checked_url("engine_url", engine_url),
        None if predictor_url is None else _checked_url("predictor_url", predictor_url),
        concurrency_limit=concurrency_limit,
    )


def _checked_url(key: str, url: str) -> str:
    scheme, separator, rest = url.partition("://")
    is_whole = scheme in ("http", "https") and separator and rest.strip("/")
    # Nothing that prints is a lone surrogate, which no answer could hold, or ends a header's line.
    if not is_whole or not url.isprintable() or " " in url:
        raise BadRequest(f"{key} must be http(s)://host[:port], got {url!r}", param=key)
    return url.rstrip("/")
