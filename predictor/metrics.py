"""The sidecar's own Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from predictor.state.select import State

_SECONDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
)


class SidecarMetrics:
    """What the sidecar has answered and how it fared."""

    def __init__(self) -> None:
        """A fresh registry."""
        self._by_source: dict[tuple[str, str], tuple[Counter, Histogram, Gauge]] = {}
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "astrolabe_predictor_answers",
            "Questions answered.",
            ["source", "backend"],
            registry=self.registry,
        )
        self.errors = Counter(
            "astrolabe_predictor_errors",
            "Calls that ended in an error, by the error's name.",
            ["error"],
            registry=self.registry,
        )
        self.predict_seconds = Histogram(
            "astrolabe_predictor_predict_seconds",
            "Time to answer a call, waiting for a turn included.",
            ["backend"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.state_age_seconds = Gauge(
            "astrolabe_predictor_state_age_seconds",
            "Age of the engine's state at the last call.",
            ["source"],
            registry=self.registry,
        )
        self.stale_answers = Counter(
            "astrolabe_predictor_stale_answers",
            "Questions answered from a state older than the limit, of an engine with work to do.",
            ["source"],
            registry=self.registry,
        )
        self.waiting_calls = Gauge(
            "astrolabe_predictor_waiting_calls",
            "Calls that wait for or are in the simulation.",
            registry=self.registry,
        )

    def count_answers(self, number: int, state: State, backend: str, took_ms: float) -> None:
        """A call was answered."""
        key = (state.source, backend)
        if key not in self._by_source:  # looking labels up costs more than counting
            self._by_source[key] = (
                self.answers.labels(*key),
                self.predict_seconds.labels(backend),
                self.state_age_seconds.labels(state.source),
            )
        answers, predict_seconds, state_age_seconds = self._by_source[key]
        answers.inc(number)
        predict_seconds.observe(took_ms / 1e3)
        state_age_seconds.set(state.age_ms / 1e3)
        if state.is_stale:
            self.stale_answers.labels(state.source).inc(number)

    def scrape(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)
