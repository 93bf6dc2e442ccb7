"""Prometheus metrics of quotas."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter


class QuotaMetrics:
    """Counters without keys, of which there may be many."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rejected = Counter(
            "astrolabe_quota_rejected",
            "Requests refused because their key's quota was used up, by limit.",
            ["limit"],
            registry=registry,
        )
        self._store_failures = Counter(
            "astrolabe_quota_store_failures",
            "Requests that could not be counted or settled, by reason.",
            ["reason"],
            registry=registry,
        )

    def rejected(self, limit: str) -> None:
        """A request was refused for its ``requests`` or its ``tokens``."""
        self._rejected.labels(limit).inc()

    def store_failed(self, reason: str) -> None:
        """The store did not do what it was asked to."""
        self._store_failures.labels(reason).inc()
