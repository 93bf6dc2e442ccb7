"""An estimator's figures as Prometheus metrics, for whichever service it runs in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from length_estimation.online.figures import EstimatorFigures

_PREFIX = "astrolabe_length_estimator_"


class EstimatorMetrics(Collector):
    """What an estimator has done so far."""

    def __init__(self, figures: Callable[[], EstimatorFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Prometheus metrics."""
        figures = self._figures()
        answered = {"inference": figures.from_model, "cache": figures.from_cache}
        yield _by("answers", "Questions that the model answered.", "by", answered)
        text = "Questions that the model did not answer."
        yield _by("misses", text, "reason", figures.not_estimated)
        learnt = {"learnt": figures.num_observed, **figures.not_observed}
        yield _by("observations", "Observed lengths by what became of them.", "result", learnt)
        yield CounterMetricFamily(
            f"{_PREFIX}batches", "Batches that the model was run for.", value=figures.num_batches
        )
        yield CounterMetricFamily(
            f"{_PREFIX}batched_questions",
            "Questions in those batches.",
            value=figures.num_batched_questions,
        )
        factor = GaugeMetricFamily(
            "astrolabe_length_recalibration_factor",
            "What the median of a typical request is multiplied by, for what was observed.",
            labels=["model"],
        )
        for model, recalibration in figures.recalibrations.items():
            factor.add_metric([model], recalibration.factor)
        yield factor


def _by(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"{_PREFIX}{name}", text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
