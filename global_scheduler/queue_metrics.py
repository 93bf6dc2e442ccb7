"""Metrics of the queues and of latency goals."""

from __future__ import annotations

import functools
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from global_scheduler.errors import Rejection
from global_scheduler.metrics import LATENCY_BUCKETS_S
from global_scheduler.queueing.holding import Holding
from global_scheduler.queueing.tickets import Ticket
from global_scheduler.queueing.waiting import CLASSES, RequestClass
from wire.prediction import Slo

WEIGHT = 0.05
"""Of the newest departure in the running mean."""


class QueueMetrics:
    """Waiting, refusals, and goodput, by class."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting = Gauge(
            "astrolabe_queue_requests", "Requests that wait.", ["class"], registry=registry
        )
        self._age_s = Gauge(
            "astrolabe_queue_oldest_seconds",
            "How long the oldest request has waited.",
            ["class"],
            registry=registry,
        )
        self._wait_s = Histogram(
            "astrolabe_queue_time_seconds",
            "From arrival to the choice of a unit.",
            ["class"],
            buckets=(0.001, 0.005, *LATENCY_BUCKETS_S),
            registry=registry,
        )
        self._rejected = Counter(
            "astrolabe_rejected_requests",
            "Requests answered 429, by reason and class.",
            ["reason", "class"],
            registry=registry,
        )
        self._goals = Counter(
            "astrolabe_slo_requests",
            "Ended requests with a latency goal, by goal, class and whether it was met.",
            ["goal", "class", "outcome"],
            registry=registry,
        )
        self._good = Counter(
            "astrolabe_goodput_requests",
            "Requests that ended well within all goals they had, by class.",
            ["class"],
            registry=registry,
        )
        # Looking a label set up costs more than counting.
        self._wait_s_of = functools.cache(self._wait_s.labels)
        self._good_of = functools.cache(self._good.labels)
        self._departed_s: float | None = None
        self._gap_s = 0.0

    def waiting(self, holding: Holding) -> None:
        """How it is now."""
        now_s = self._clock()
        for request_class in CLASSES:
            waiting = holding.waiting(request_class)
            self._waiting.labels(request_class).set(len(waiting))
            age_s = now_s - waiting[0].arrived_s if waiting else 0.0
            self._age_s.labels(request_class).set(age_s)

    def placed(self, ticket: Ticket, now_s: float) -> None:
        """A request has left its queue for a unit."""
        self._wait_s_of(ticket.request_class).observe(now_s - ticket.waiting.arrived_s)
        if self._departed_s is not None:
            self._gap_s += WEIGHT * (now_s - self._departed_s - self._gap_s)
        self._departed_s = now_s

    def seconds_per_departure(self) -> float:
        """A running mean; 0 before there were two."""
        return self._gap_s

    def rejected(self, reason: Rejection, request_class: RequestClass) -> None:
        """A request was answered 429."""
        self._rejected.labels(reason, request_class).inc()

    def ended(
        self,
        request_class: RequestClass,
        slo: Slo | None,
        ttft_ms: float | None,
        tpot_ms: float | None,
    ) -> bool:
        """A request ended well; True if it met the goals that it had.

        A latency that could not be observed (None) misses no goal and meets none.
        """
        goals = {
            "ttft": (slo.ttft_ms if slo else None, ttft_ms),
            "tpot": (slo.tpot_ms if slo else None, tpot_ms),
        }
        is_good = True
        for name, (goal_ms, observed_ms) in goals.items():
            if goal_ms is None or observed_ms is None:
                continue
            is_met = observed_ms <= goal_ms
            is_good &= is_met
            self._goals.labels(name, request_class, "met" if is_met else "missed").inc()
        if is_good:
            self._good_of(request_class).inc()
        return is_good
