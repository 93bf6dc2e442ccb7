"""The state of one engine at one moment, as the vLLM plug-in and the emulator export it.

Field names are vLLM's (``vllm/v1/request.py`` and ``vllm/v1/core/sched/scheduler.py``, 0.32). Times
are UNIX seconds of the engine's host. This module imports msgspec alone, so that the plug-in runs
inside vLLM's environment. Readers ignore fields they do not know.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

SNAPSHOT_VERSION = 1

Count = Annotated[int, msgspec.Meta(ge=0)]
PositiveCount = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]

RequestStatus = Literal["waiting", "running", "preempted"]


class SequenceState(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request inside an engine."""

    request_id: str
    num_prompt_tokens: Count
    num_tokens: Count
    """Prompt and generated tokens so far."""
    num_computed_tokens: Count = 0
    """Tokens whose KV entries exist or are being computed by a batch in flight."""
    num_output_placeholders: Count = 0
    """Tokens scheduled but not yet sampled (async scheduling)."""
    max_tokens: Count
    """The most output tokens this request may produce."""
    priority: int = 0
    arrival_time: Seconds = 0.0
    num_preemptions: Count = 0
    status: RequestStatus = "waiting"
    num_blocks: Count = 0
    """KV blocks held."""
    num_cached_tokens: Count = 0
    """For a waiting request: prompt tokens that the prefix cache holds now."""


class EngineLimits(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The configuration that bounds an engine's scheduler; constant while the engine lives."""

    max_num_seqs: PositiveCount
    max_num_batched_tokens: PositiveCount
    max_model_len: PositiveCount
    block_size: PositiveCount
    num_gpu_blocks: PositiveCount
    """KV blocks a request can be given, vLLM's null block left out."""
    long_prefill_token_threshold: Count = 0
    enable_chunked_prefill: bool = True
    enable_prefix_caching: bool = False
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    async_scheduling: bool = False


class BatchInFlight(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A batch handed to the workers whose results have not come back."""

    started_at: Seconds
    num_scheduled_tokens: dict[str, Count]
    """Tokens of each request in the batch, by request id, in scheduling order."""
    prefill_chunks: list[str] = []
    """Ids of the requests whose last known token the batch does not reach (vLLM's
    ``is_prefill_chunk``), so that they get none from it."""


class StepRecord(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The shape of one finished batch and how long it took: what step-time models are fitted to."""

    step: Count
    started_at: Seconds
    duration_s: Seconds
    num_prefill_tokens: Count = 0
    num_decode_tokens: Count = 0
    num_prefill_seqs: Count = 0
    num_decode_seqs: Count = 0
    num_kv_tokens: Count = 0
    """Sum over the batch of the context length before this step."""
    prefill_attention: float = 0.0
    """Sum over prefilling requests of n * (ctx - n / 2), with ctx the context after the step."""


class EngineSnapshot(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The state of one engine at one moment."""

    version: int
    """Always ``SNAPSHOT_VERSION``, and always written: a snapshot without it cannot be read."""
    engine_id: str
    model: str
    step: Count
    """Scheduler steps since the engine started."""
    time: Seconds
    """When this snapshot was taken."""
    limits: EngineLimits
    running: list[SequenceState] = []
    """In the scheduler's order: the last one is preempted first (FCFS)."""
    waiting: list[SequenceState] = []
    """In the order in which they would be admitted."""
    num_waiting_left_out: Count = 0
    """Further waiting requests that a very long queue leaves no room for."""
    num_free_blocks: Count
    num_preemptions: Count = 0
    """Preemptions since the engine started."""
    in_flight: list[BatchInFlight] = []
    recent_steps: list[StepRecord] = []
    """The last steps, oldest first."""
