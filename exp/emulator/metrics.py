"""The emulator's ``/metrics``, with the names of ``vllm/v1/metrics/loggers.py`` (0.32)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from exp.emulator.generation import Generation
from predictor.simulator.batch import Batch
from predictor.simulator.scheduler import Scheduler
from wire.snapshot import EngineLimits

_TTFT_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
_LATENCY_BUCKETS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)


class EngineMetrics:
    """Counts what the engine does. Gauges read the scheduler when they are scraped."""

    def __init__(self, model_name: str, scheduler: Scheduler) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"model_name": model_name, "engine": "0"}
        self._gauge("num_requests_running", lambda: len(scheduler.running))
        self._gauge("num_requests_waiting", lambda: len(scheduler.waiting))
        self._gauge("kv_cache_usage_perc", lambda: _kv_usage(scheduler))
        self._preemptions = self._counter("num_preemptions")
        self._prompt_tokens = self._counter("prompt_tokens")
        self._generation_tokens = self._counter("generation_tokens")
        self._prefix_queries = self._counter("prefix_cache_queries")
        self._prefix_hits = self._counter("prefix_cache_hits")
        self._ttft = self._histogram("time_to_first_token_seconds", _TTFT_BUCKETS)
        self._e2e = self._histogram("e2e_request_latency_seconds", _LATENCY_BUCKETS)
        self._queue_time = self._histogram("request_queue_time_seconds", _LATENCY_BUCKETS)
        self._success = Counter(
            "vllm:request_success",
            "Requests that ended, by reason.",
            ["model_name", "engine", "finished_reason"],
            registry=self.registry,
        )
        self._export_cache_config(scheduler.limits)

    def scrape(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self.registry)

    def count_batch(self, batch: Batch, generations: dict[str, Generation], now: float) -> None:
        """A batch was scheduled."""
        self._preemptions.inc(len(batch.preempted))
        for chunk in batch.chunks:
            seq = chunk.seq
            if (
                seq.num_preemptions
                or seq.num_output_tokens
                or chunk.context > seq.num_cached_tokens
            ):
                continue
            self._prefix_queries.inc(seq.num_prompt_tokens)
            self._prefix_hits.inc(seq.num_cached_tokens)
            self._queue_time.observe(now - generations[seq.request_id].arrived_at)

    def count_tokens(self, sampled: list[Generation], now: float) -> None:
        """A batch brought each of these one token."""
        self._generation_tokens.inc(len(sampled))
        for generation in sampled:
            if generation.num_tokens == 1:
                self._prompt_tokens.inc(generation.seq.num_prompt_tokens)
                self._ttft.observe(now - generation.arrived_at)

    def count_end(self, generation: Generation, now: float) -> None:
        """A request ended or was aborted."""
        reason = generation.seq.finish_reason
        self._success.labels(**self._labels, finished_reason=reason).inc()
        if reason != "abort":
            self._e2e.observe(now - generation.arrived_at)

    def _gauge(self, name: str, read: Callable[[], float]) -> None:
        gauge = Gauge(f"vllm:{name}", name, list(self._labels), registry=self.registry)
        gauge.labels(**self._labels).set_function(read)

    def _counter(self, name: str) -> Counter:
        counter = Counter(f"vllm:{name}", name, list(self._labels), registry=self.registry)
        return counter.labels(**self._labels)

    def _histogram(self, name: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(
            f"vllm:{name}", name, list(self._labels), registry=self.registry, buckets=buckets
        )
        return histogram.labels(**self._labels)

    def _export_cache_config(self, limits: EngineLimits) -> None:
        """vLLM tells its cache configuration in the labels of a gauge that is always 1."""
        config = {
            "engine": "0",
            "block_size": str(limits.block_size),
            # With the null block, as vLLM counts.
            "num_gpu_blocks": str(limits.num_gpu_blocks + 1),
            "enable_prefix_caching": str(limits.enable_prefix_caching),
        }
        gauge = Gauge(
            "vllm:cache_config_info", "The cache config.", list(config), registry=self.registry
        )
        gauge.labels(**config).set(1)


def _kv_usage(scheduler: Scheduler) -> float:
    pool = scheduler.kv_cache.pool
    return 1 - pool.num_free / pool.num_blocks
