"""What the gateway asks a sidecar and what the sidecar answers."""

from __future__ import annotations

from typing import Literal

import msgspec

MAX_TOKENS = 10_000_000
"""No engine holds a sequence as long as this; sidecars refuse larger counts."""
MAX_PRIORITY = 2**62
"""Sidecars refuse priorities beyond this and its negative."""

StateSource = Literal["plugin", "ledger", "metrics"]


class Slo(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request's latency goals; None is no goal."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None


class SentRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A request that the gateway has sent to the unit and that has not ended.

    The engine may not have seen it yet (requests that arrive during a step wait for its end), and
    the engine never knows how much output to expect; the sidecar overlays both on its snapshot. An
    engine's id for the request contains ``request_id`` (vLLM: ``cmpl-{request_id}-0-{8 hex}``).
    """

    request_id: str
    num_prompt_tokens: int
    expected_output_tokens: float
    sent_age_ms: float = 0.0
    has_first_token: bool = False
    priority: int = 0


class PredictRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A hypothetical request. Either ``expected_output_tokens`` or ``quantiles`` must be given."""

    request_id: str
    num_prompt_tokens: int
    prompt_token_hashes: list[int] = []
    """Hashes of the prompt's full blocks, first block first; empty when unknown."""
    expected_output_tokens: float | None = None
    quantiles: dict[str, float] | None = None
    """Quantiles of the output length, such as ``{"0.5": 210.0, "0.9": 600.0}``."""
    max_tokens: int | None = None
    priority: int = 0
    slo: Slo | None = None


class PredictBatchRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Independent questions about one unit: each is answered as if it were asked alone."""

    requests: list[PredictRequest]
    sent: list[SentRequest] = []
    """All requests that the asking gateway has in flight on this unit."""
    simulate: bool = True
    """False asks for the state fields only; latencies are then 0 and ``backend`` is ``none``."""
    cost_to_others: bool = True
    """False leaves ``added_delay_others_ms`` at 0 and spares the backend a second run."""


class Prediction(msgspec.Struct, kw_only=True):
    """One answer. Latencies count from now, in milliseconds."""

    request_id: str
    queue_ms: float
    """Until the engine first schedules the request."""
    ttft_ms: float
    tpot_ms: float
    e2e_ms: float
    added_delay_others_ms: float
    """How far the requests already there, summed up, lag behind by the time this one ends."""
    kv_blocks_free: int
    kv_blocks_total: int
    kv_blocks_wanted: int
    """Blocks that the prompts of waiting requests need."""
    num_running: int
    num_waiting: int
    num_preempted: int
    """Preemptions that the what-if met before the request ended."""
    num_unprocessed_tokens: int
    """Prompt and expected output tokens that the unit still has to process."""
    state_source: StateSource
    state_age_ms: float
    """Since the snapshot was taken. An idle engine takes none: nothing running, no harm in age."""
    backend: str
    time_to_predict_ms: float


class PredictBatchResponse(msgspec.Struct, kw_only=True):
    """Answers in the order of the questions."""

    predictions: list[Prediction]
