"""Prometheus metrics of the length estimates."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from length_estimation.online.figures import EstimatorFigures
from length_estimation.online.metrics import EstimatorMetrics
from wire.length import LengthEstimate

ESTIMATION_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.002, 0.004, 0.008, 0.012, 0.016, 0.02, 0.05, 0.1)
ERROR_BUCKETS_TOKENS = (5, 10, 25, 50, 100, 200, 400, 800, 1600, 3200)
LOW, MEDIAN, HIGH = "0.1", "0.5", "0.9"
"""80 % of the answers should end between the outer two."""


def typical_tokens(estimate: LengthEstimate) -> float:
    """The median where it is known, else the mean."""
    return estimate.quantiles.get(MEDIAN, estimate.mean_tokens)


class LengthMetrics:
    """Counters and histograms; models are those that units have answered for."""

    def __init__(
        self, registry: CollectorRegistry, figures: Callable[[], EstimatorFigures] | None
    ) -> None:
        """``figures`` are the model's; None where no model is loaded."""
        is_loaded = Gauge(
            "astrolabe_length_estimator_loaded",
            "1 when a trained model estimates, 0 when the running mean stands in.",
            registry=registry,
        )
        is_loaded.set(figures is not None)
        if figures is not None:
            registry.register(EstimatorMetrics(figures))
        self._estimates = Counter(
            "astrolabe_length_estimates",
            "Estimates of output lengths by what made them.",
            ["source"],
            registry=registry,
        )
        self._duration_s = Histogram(
            "astrolabe_length_estimation_seconds",
            "Time to ask the estimator's model, successful or not.",
            buckets=ESTIMATION_BUCKETS_S,
            registry=registry,
        )
        self._error_tokens = Histogram(
            "astrolabe_length_error_tokens",
            "abs(predicted - observed) output tokens of single answers; of a distribution, the "
            "median counts.",
            ["model", "source"],
            buckets=ERROR_BUCKETS_TOKENS,
            registry=registry,
        )
        # Looking a label set up costs more than counting.
        self._estimates_of = functools.cache(self._estimates.labels)
        self._error_tokens_of = functools.cache(self._error_tokens.labels)
        self._failures = Counter(
            "astrolabe_length_estimator_failures",
            "Failures that the estimator did not expect, estimating or observing.",
            ["doing"],
            registry=registry,
        )
        self._interval = Counter(
            "astrolabe_length_interval",
            "Answers by where their length lay: below, within or above the interval that should "
            "hold 80 % of them.",
            ["model", "position"],
            registry=registry,
        )

    def estimated(self, source: str) -> None:
        """A request has got its estimate."""
        self._estimates_of(source).inc()

    def asked_model(self, duration_s: float) -> None:
        """The model has given an estimate or none."""
        self._duration_s.observe(duration_s)

    def failed(self, doing: str) -> None:
        """The estimator has raised, or said what no length can be."""
        self._failures.labels(doing).inc()

    def observed(self, model: str, estimate: LengthEstimate, num_output_tokens: int) -> None:
        """Compare an estimate with the answer."""
        error_tokens = abs(typical_tokens(estimate) - num_output_tokens)
        self._error_tokens_of(model, estimate.source).observe(error_tokens)
        low, high = estimate.quantiles.get(LOW), estimate.quantiles.get(HIGH)
        if low is not None and high is not None:
            below, above = num_output_tokens < low, num_output_tokens > high
            position = "below" if below else "above" if above else "within"
            self._interval.labels(model, position).inc()
