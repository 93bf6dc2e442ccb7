"""Metrics of pools, of stealing, and of the backlogs that both ask sidecars about."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from global_scheduler.pools.base import Move
from global_scheduler.queueing.waiting import RequestClass

Purpose = Literal["prices", "threshold", "steal", "limit"]
"""What a backlog is predicted for."""


class PoolMetrics:
    """How units are divided. Label sets are bounded by the numbers of units and controllers."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._units = Gauge(
            "astrolabe_pool_units",
            "Healthy units that do not drain, by pool (both: they serve either class).",
            ["pool"],
            registry=registry,
        )
        self._limit = Gauge(
            "astrolabe_unit_concurrency_limit",
            "Requests that a unit may run at a time.",
            ["unit"],
            registry=registry,
        )
        self._threshold = Gauge(
            "astrolabe_long_threshold_tokens",
            "Prompt and expected output tokens from which on a request is long.",
            registry=registry,
        )
        self._moves = Counter(
            "astrolabe_pool_moves",
            "Units that changed pool, by the pool they went to and who moved them.",
            ["to", "controller"],
            registry=registry,
        )
        self._unpriced = Counter(
            "astrolabe_pool_unpriced",
            "Looks at a group of units whose present split could not be priced.",
            registry=registry,
        )
        self._tick_s = Histogram(
            "astrolabe_pool_control_seconds",
            "Time of a look at the pools, questions to sidecars included.",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
            registry=registry,
        )
        self._failures = Counter(
            "astrolabe_pool_control_failures",
            "Looks at pools or limits that ended in an unexpected error.",
            registry=registry,
        )

    def seen(
        self,
        pools: Iterable[RequestClass | None],
        limits: Iterable[tuple[str, int]],
        threshold_tokens: float,
    ) -> None:
        """How units are divided, and their limits by name."""
        counts = {"short": 0, "long": 0, "both": 0}
        for pool in pools:
            counts[pool or "both"] += 1
        for name, count in counts.items():
            self._units.labels(name).set(count)
        self._limit.clear()
        for unit, limit in limits:
            self._limit.labels(unit).set(limit)
        self._threshold.set(threshold_tokens)

    def moved(self, move: Move, controller: str) -> None:
        """A unit has changed pool."""
        self._moves.labels(move.to, controller).inc()

    def unpriced(self) -> None:
        """The present split of a group has no price: its controller has to do without."""
        self._unpriced.inc()

    def ticked(self, duration_s: float) -> None:
        """The pools were looked at, well or not."""
        self._tick_s.observe(duration_s)

    def failed(self) -> None:
        """That, or deriving limits, ended in an error."""
        self._failures.inc()


class StealMetrics:
    """Requests that units took from the other pool, and what forbade it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._steals = Counter(
            "astrolabe_steals",
            "Requests given to a unit of the other pool, by class and what allowed it.",
            ["class", "allowed_by"],
            registry=registry,
        )
        self._refusals = Counter(
            "astrolabe_steals_refused",
            "What-ifs that showed harm in a steal, by class.",
            ["class"],
            registry=registry,
        )

    def stolen(self, request_class: RequestClass, allowed_by: str) -> None:
        """A unit of the other pool was given a request of this class."""
        self._steals.labels(request_class, allowed_by).inc()

    def refused(self, request_class: RequestClass) -> None:
        """A what-if forbids to steal a request of this class."""
        self._refusals.labels(request_class).inc()


class BacklogMetrics:
    """Questions about backlogs. Label sets are bounded by the numbers of units and reasons."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._asked = Counter(
            "astrolabe_backlogs_asked",
            "Backlogs that sidecars were asked about, by purpose.",
            ["purpose"],
            registry=registry,
        )
        self._missing = Counter(
            "astrolabe_backlogs_missing",
            "Backlogs of which a sidecar did not predict the end, by purpose and reason.",
            ["unit", "purpose", "reason"],
            registry=registry,
        )

    def asked(self, purpose: Purpose) -> None:
        """A sidecar was asked about a backlog."""
        self._asked.labels(purpose).inc()

    def missing(self, unit: str, purpose: Purpose, reason: str) -> None:
        """And gave no answer that can be used."""
        self._missing.labels(unit, purpose, reason).inc()
