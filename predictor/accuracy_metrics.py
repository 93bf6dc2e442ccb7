"""Shows on ``/metrics`` how true predictions have been: collected when the page is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from predictor.calibration import Calibration, CalibrationFigures
from predictor.step_time.online import StepTimeFigures

_PREFIX = "astrolabe_predictor_"

_CALIBRATION = {
    "error": ("median_abs_error", "Median relative error of corrected predictions."),
    "bias": ("bias", "Median relative error with its sign; above 0 is predicted too long."),
    "p90_coverage": ("p90_coverage", "Share of requests that stayed within the predicted p90."),
    "drift": ("drift", "From 0 to 1, where a lasting error is found."),
    "drift_alarm": ("drift_alarm", "1 for a while after a lasting error was found."),
}
_STEP_TIME = {
    "mape": ("mape", "Mean relative error of predicted step times."),
    "r2": ("r2", "Share of the variance of step times that is predicted."),
    "drift": ("drift", "Recent error over the usual one; well above 1 when the engine changed."),
}


class CalibrationMetrics(Collector):
    """What a calibration knows of itself."""

    def __init__(self, calibration: Calibration) -> None:
        self._calibration = calibration

    def collect(self) -> Iterator[Metric]:
        """Prometheus metrics."""
        figures = self._calibration.figures()
        for name, (field, text) in _CALIBRATION.items():
            yield _by_latency(f"{_PREFIX}{name}", text, figures, field)
        samples = CounterMetricFamily(
            f"{_PREFIX}outcomes", "Requests that were learnt from.", labels=["latency"]
        )
        drifts = CounterMetricFamily(
            f"{_PREFIX}drifts", "Times that a lasting error was found.", labels=["latency"]
        )
        for latency, known in figures.latencies.items():
            samples.add_metric([latency], known.num_samples)
            drifts.add_metric([latency], known.num_drifts)
        yield from (samples, drifts)
        yield CounterMetricFamily(
            f"{_PREFIX}outcomes_unknown",
            "Ended requests without a prediction to compare with.",
            value=figures.num_unknown,
        )
        yield CounterMetricFamily(
            f"{_PREFIX}outcomes_refused",
            "Ended requests whose figures cannot be true.",
            value=figures.num_refused,
        )


class StepTimeMetrics(Collector):
    """How well step times are predicted."""

    def __init__(self, figures: Callable[[], StepTimeFigures]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Prometheus metrics."""
        figures = self._figures()
        for name, (field, text) in _STEP_TIME.items():
            value = getattr(figures, field)
            yield GaugeMetricFamily(f"{_PREFIX}step_time_{name}", text, value=value)
        yield CounterMetricFamily(
            f"{_PREFIX}step_time_steps", "Steps that were learnt from.", value=figures.num_steps
        )
        yield CounterMetricFamily(
            f"{_PREFIX}step_time_refused",
            "Step records that cannot be true.",
            value=figures.num_refused,
        )


def _by_latency(name: str, text: str, figures: CalibrationFigures, field: str) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["latency"])
    for latency, known in figures.latencies.items():
        value = getattr(known, field)
        if value is not None:
            family.add_metric([latency], float(value))
    return family
