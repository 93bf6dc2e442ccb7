"""A coarse state from the engine's Prometheus page, where no plug-in is at hand.

The page counts requests and KV usage but does not name or measure them. So every request counted
becomes a synthetic sequence of average size, to which ``name_sequences`` gives the sizes of what
the gateway has sent. Metric names are vLLM's (``vllm/v1/metrics/loggers.py``, 0.32).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from predictor.errors import StateUnavailable, StateUnreachable
from predictor.overlay import DEFAULT_OUTPUT_TOKENS
from predictor.state.validate import MAX_SEQUENCES, check_snapshot
from wire.model_config import ModelConfig
from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import SNAPSHOT_VERSION, EngineLimits, EngineSnapshot, SequenceState

MAX_METRICS_BYTES = 8 * 1024 * 1024
DEFAULT_PROMPT_TOKENS = 256
SYNTHETIC_ID = "metrics:"
MAX_DIGITS = 18


@dataclass(frozen=True, slots=True)
class EngineCounts:
    """What the page says."""

    num_running: int
    num_waiting: int
    kv_usage: float
    """Share of the KV blocks in use, 0 to 1."""
    num_preemptions: int
    cache_config: Mapping[str, str]
    """Labels of ``vllm:cache_config_info``."""


class MetricsStateSource:
    """Reads an engine's ``/metrics``; a page is kept for ``max_age_s``, as it costs the engine."""

    def __init__(
        self,
        engine_url: str,
        model: ModelConfig,
        engine_id: str,
        num_gpu_blocks: int,
        clock: Callable[[], float],
        timeout_s: float = 1.0,
        max_age_s: float = 0.1,
    ) -> None:
        """``num_gpu_blocks`` is assumed where the engine does not export it. Connects lazily."""
        self._url = engine_url.rstrip("/") + "/metrics"
        self._model = model
        self._engine_id = engine_id
        self._num_gpu_blocks = num_gpu_blocks
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._max_age_s = max_age_s
        self._session: aiohttp.ClientSession | None = None
        self._last: EngineSnapshot | None = None
        self._lock = asyncio.Lock()

    @property
    def name(self) -> StateSourceName:
        """Always ``metrics``."""
        return "metrics"

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """The state by the engine's page. Raises StateUnavailable, see ``predictor.errors``."""
        async with self._lock:
            now = self._clock()
            if self._last is None or now - self._last.time > self._max_age_s:
                self._last = None
                page = await self._fetch()
                self._last = self._snapshot(parse_metrics(page), now)
            return self._last

    async def close(self) -> None:
        """Close the connection."""
        if self._session is not None:
            await self._session.close()

    async def _fetch(self) -> str:
        if self._session is None:  # aiohttp wants it made inside the event loop
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        try:
            async with self._session.get(self._url) as response:
                if response.status != 200:
                    raise StateUnreachable(f"{self._url} answered HTTP {response.status}")
                body = bytearray()
                async for chunk in response.content.iter_chunked(65536):
                    body += chunk
                    if len(body) > MAX_METRICS_BYTES:
                        raise StateUnreachable(f"{self._url}: over {MAX_METRICS_BYTES} bytes")
                return body.decode()
        except asyncio.TimeoutError as error:
            limit_s = self._timeout.total
            raise StateUnreachable(f"{self._url}: no answer within {limit_s} s") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise StateUnreachable(f"{self._url}: {error}") from error

    def _snapshot(self, counts: EngineCounts, now: float) -> EngineSnapshot:
        limits = limits_of(self._model, self._num_gpu_blocks, counts.cache_config)
        limits = with_slots_for(counts.num_running, limits)
        prompt_tokens = min(DEFAULT_PROMPT_TOKENS, limits.max_model_len - 1)
        blocks_used = round(min(1.0, max(0.0, counts.kv_usage)) * limits.num_gpu_blocks)
        snapshot = EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id=self._engine_id,
            model=self._model.model_name,
            step=0,
            time=now,
            limits=limits,
            running=synthetic_running(counts.num_running, blocks_used, limits),
            waiting=[
                _synthetic(f"waiting-{i}", prompt_tokens, 0, 0, limits)
                for i in range(counts.num_waiting)
            ],
            num_free_blocks=limits.num_gpu_blocks - blocks_used,
            num_preemptions=counts.num_preemptions,
        )
        check_snapshot(snapshot)  # labels of the page may say anything
        return snapshot


def parse_metrics(page: str) -> EngineCounts:
    """Read the counts off the page, summed over the engine's cores.

    Raises:
        StateUnavailable: it is no Prometheus page, or not one of vLLM's.
    """
    values: dict[str, list[float]] = {}
    cache_config: Mapping[str, str] = {}
    try:
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                values.setdefault(sample.name, []).append(sample.value)
                if sample.name == "vllm:cache_config_info":
                    cache_config = sample.labels
    except ValueError as error:
        raise StateUnavailable(f"the engine's /metrics is no Prometheus text: {error}") from error

    def required(name: str) -> list[float]:
        found = [value for value in values.get(name, ()) if math.isfinite(value)]
        if not found:
            raise StateUnavailable(f"the engine's /metrics has no {name}: is it a vLLM server?")
        return found

    def count(name: str) -> int:
        found = sum(required(name))
        if not 0 <= found <= MAX_SEQUENCES:
            raise StateUnavailable(f"the engine's /metrics: {name} cannot be {found}")
        return int(found)

    usage = required("vllm:kv_cache_usage_perc")
    return EngineCounts(
        num_running=count("vllm:num_requests_running"),
        num_waiting=count("vllm:num_requests_waiting"),
        kv_usage=sum(usage) / len(usage),
        num_preemptions=int(
            sum(filter(math.isfinite, values.get("vllm:num_preemptions_total", ())))
        ),
        cache_config=cache_config,
    )


def limits_of(
    model: ModelConfig, num_gpu_blocks: int, cache_config: Mapping[str, str] | None = None
) -> EngineLimits:
    """An engine's limits by its model's configuration; KV figures by its own labels if usable."""
    labels = cache_config or {}
    return EngineLimits(
        max_num_seqs=model.max_batch_size,
        max_num_batched_tokens=model.chunk_size,
        max_model_len=model.max_model_len,
        block_size=_positive(labels.get("block_size")) or model.block_size,
        num_gpu_blocks=_positive(labels.get("num_gpu_blocks")) or num_gpu_blocks,
        enable_prefix_caching=model.enable_prefix_caching,
    )


def with_slots_for(num_running: int, limits: EngineLimits) -> EngineLimits:
    """Limits that allow for as many running sequences as there are: an engine may have been started
    with more slots than its model's configuration says.
    """
    if num_running <= limits.max_num_seqs:
        return limits
    return msgspec.structs.replace(limits, max_num_seqs=num_running)


def name_sequences(snapshot: EngineSnapshot, sent: Sequence[SentRequest]) -> EngineSnapshot:
    """Give synthetic sequences the identities and sizes of what the gateway has sent.

    Streaming requests run, the oldest of the others fill the rest of the running and then of the
    waiting ones. How far a stream has come is unknown: half of its expected output is assumed.
    A stream beyond the count runs too, for the gateway knows it better than a page of the past.
    """
    streaming = [request for request in sent if request.has_first_token]
    others = sorted((r for r in sent if not r.has_first_token), key=lambda r: -r.sent_age_ms)
    num_prefilling = max(0, len(snapshot.running) - len(streaming))
    begun = streaming + others[:num_prefilling]
    queued = others[num_prefilling:][: len(snapshot.waiting)]
    limits = snapshot.limits
    running = [_named(request, limits, running=True) for request in begun]
    waiting = [_named(request, limits, running=False) for request in queued]
    return msgspec.structs.replace(
        snapshot,
        limits=with_slots_for(len(running), limits),
        running=running + snapshot.running[len(running) :],
        waiting=waiting + snapshot.waiting[len(waiting) :],
    )


def synthetic_running(count: int, blocks_used: int, limits: EngineLimits) -> list[SequenceState]:
    """Sequences that share the used blocks evenly, each halfway through an average answer."""
    if count == 0:
        return []
    blocks = max(1, blocks_used // count)
    context = min(blocks * limits.block_size, limits.max_model_len - 1)
    generated = min(int(DEFAULT_OUTPUT_TOKENS / 2), context - 1)
    return [
        _synthetic(f"running-{i}", context - generated, generated, blocks, limits)
        for i in range(count)
    ]


def _synthetic(
    name: str, prompt: int, generated: int, num_blocks: int, limits: EngineLimits
) -> SequenceState:
    """A sequence; running if it holds blocks."""
    return SequenceState(
        request_id=SYNTHETIC_ID + name,
        num_prompt_tokens=prompt,
        num_tokens=prompt + generated,
        num_computed_tokens=max(0, prompt + generated - 1) if generated else 0,
        max_tokens=max(1, limits.max_model_len - prompt),
        status="running" if num_blocks else "waiting",
        num_blocks=num_blocks,
    )


def _named(request: SentRequest, limits: EngineLimits, running: bool) -> SequenceState:
    prompt = max(1, min(request.num_prompt_tokens, limits.max_model_len - 1))
    generated = 0
    if request.has_first_token:
        most = limits.max_model_len - prompt
        generated = max(1, min(int(request.expected_output_tokens / 2), most))
    sequence = _synthetic("", prompt, generated, 0, limits)
    return msgspec.structs.replace(
        sequence,
        request_id=request.request_id,
        priority=request.priority,
        status="running" if running else "waiting",
        num_blocks=-(-(prompt + generated) // limits.block_size) if running else 0,
    )


def _positive(label: str | None) -> int | None:
    """A label as a positive number, else None."""
    if not label or len(label) > MAX_DIGITS or not label.isdecimal():
        return None
    return int(label) or None
