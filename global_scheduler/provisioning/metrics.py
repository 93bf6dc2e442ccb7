"""Metrics of standby units."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge

from global_scheduler.provisioning.base import STATES, Standby


class ProvisioningMetrics:
    """How many are in which state, what was done, and what failed."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._states = Gauge(
            "astrolabe_standby_units", "Standby units by state.", ["state"], registry=registry
        )
        self._actions = Counter(
            "astrolabe_provisioning_actions",
            "Joins (start, keep) and leaves (drain, stop) of standby units.",
            ["action"],
            registry=registry,
        )
        self._failures = Counter(
            "astrolabe_provisioning_failures",
            "Standby units that could not be started or stopped, or that were lost.",
            ["unit"],
            registry=registry,
        )

    def done(self, action: str) -> None:
        """The controller has decided so."""
        self._actions.labels(action).inc()

    def failed(self, unit: str) -> None:
        """A provisioner, or a unit that it started."""
        self._failures.labels(unit).inc()

    def show(self, standby: Iterable[Standby]) -> None:
        """The states of all."""
        states = [one.state for one in standby]
        for state in STATES:
            self._states.labels(state).set(states.count(state))
