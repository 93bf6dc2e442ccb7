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
        self._uncounted = Counter(
            "astrolabe_quota_uncounted",
            "Requests with a quota that could not be counted, by what the store did.",
            ["reason"],
            registry=registry,
        )

    def rejected(self, limit: str) -> None:
        """A request was refused for its ``requests`` or its ``tokens``."""
        self._rejected.labels(limit).inc()

    def uncounted(self, reason: str) -> None:
        """The store was ``late``, ``failed``, or is left alone for that (``paused``)."""
        self._uncounted.labels(reason).inc()
