"""The gateway's Prometheus metrics, on a registry of their own."""

from __future__ import annotations

import functools

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from global_scheduler.units import UnitRegistry

LATENCY_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DECISION_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
ERROR_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)


class GatewayMetrics:
    """Counters and histograms; label sets are bounded by the numbers of units and policies."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests by unit and status.", "unit", "status")
        self._decisions = self._counter(
            "decisions",
            "Routing decisions by policy and the fallback used (none: predictions complete).",
            "policy",
            "fallback",
        )
        self._missing = self._counter(
            "predictions_missing",
            "Questions that a sidecar did not answer, by reason.",
            "unit",
            "reason",
        )
        self._dropped = self._counter(
            "outcomes_dropped",
            "Outcomes of requests that their unit's sidecar was away too long to be told.",
            "unit",
        )
        self._log_losses = self._counter(
            "request_log_lost", "Requests missing from the request log, by reason.", "reason"
        )
        self._unrecorded = self._counter(
            "unrecorded", "Decisions and outcomes that could not be put down.", "what"
        )
        self._failures = self._counter(
            "unit_failures", "Failures of a unit before a first byte.", "unit"
        )
        self._decision_s = self._histogram(
            "decision_seconds",
            "Time to choose a unit, questions to sidecars included.",
            DECISION_BUCKETS_S,
        )
        self._ttft_s = self._histogram(
            "time_to_first_token_seconds",
            "Observed TTFT of streamed requests.",
            LATENCY_BUCKETS_S,
            "unit",
        )
        self._e2e_s = self._histogram(
            "e2e_request_latency_seconds", "Observed E2E latency.", LATENCY_BUCKETS_S, "unit"
        )
        self._error = self._histogram(
            "prediction_error_ratio",
            "abs(predicted - observed) / observed.",
            ERROR_BUCKETS,
            "unit",
            "quantity",
        )
        # Looking a label set up costs more than counting.
        self._requests_of = functools.cache(self._requests.labels)
        self._decisions_of = functools.cache(self._decisions.labels)
        self._ttft_s_of = functools.cache(self._ttft_s.labels)
        self._e2e_s_of = functools.cache(self._e2e_s.labels)
        self._error_of = functools.cache(self._error.labels)
        self._units = self._gauge("unit_healthy", "1 when the unit is a candidate.")
        self._outstanding = self._gauge(
            "unit_outstanding_requests", "Requests of this gateway in flight on the unit."
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"astrolabe_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"astrolabe_{name}", text, ["unit"], registry=self.registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(f"astrolabe_{name}", text, labels, buckets=buckets, registry=self.registry)

    def request_ended(self, unit: str, status: int) -> None:
        """A request was answered (499: its client left)."""
        self._requests_of(unit, str(status)).inc()

    def decided(self, policy: str, fallback: str | None, duration_s: float) -> None:
        """A unit was chosen."""
        self._decisions_of(policy, fallback or "none").inc()
        self._decision_s.observe(duration_s)

    def prediction_missing(self, unit: str, reason: str) -> None:
        """A sidecar was asked, or should have been, and no answer could be used."""
        self._missing.labels(unit, reason).inc()

    def outcome_dropped(self, unit: str) -> None:
        """A sidecar will not learn what a request has met."""
        self._dropped.labels(unit).inc()

    def request_log_lost(self, reason: str) -> None:
        """A request could not be written to the request log. Any thread may call this."""
        self._log_losses.labels(reason).inc()

    def unrecorded(self, what: str) -> None:
        """A request's decision or outcome could not be put down."""
        self._unrecorded.labels(what).inc()

    def unit_failed(self, unit: str) -> None:
        """A unit failed before the first byte of its answer."""
        self._failures.labels(unit).inc()

    def observed(self, unit: str, ttft_ms: float | None, e2e_ms: float) -> None:
        """A request ended well."""
        if ttft_ms is not None:
            self._ttft_s_of(unit).observe(ttft_ms / 1e3)
        self._e2e_s_of(unit).observe(e2e_ms / 1e3)

    def predicted(self, unit: str, quantity: str, predicted_ms: float, observed_ms: float) -> None:
        """Compare a prediction with what happened."""
        if observed_ms > 0:
            error = abs(predicted_ms - observed_ms) / observed_ms
            self._error_of(unit, quantity).observe(error)

    def render(self, units: UnitRegistry) -> bytes:
        """The exposition text."""
        self._units.clear()
        self._outstanding.clear()
        for unit in units.all():
            self._units.labels(unit.name).set(unit.healthy and not unit.draining)
            self._outstanding.labels(unit.name).set(len(unit.outstanding))
        return generate_latest(self.registry)
