"""What the gateway asks a sidecar and what the sidecar answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

MAX_TOKENS = 10_000_000
"""No engine holds a sequence as long as this; sidecars refuse larger counts."""
MAX_PRIORITY = 2**62
"""Sidecars refuse priorities beyond this and its negative."""

MAX_ANSWER_MS = 1e15
"""No truthful answer has a time beyond this: not the fullest unit of the slowest engine."""
MAX_COUNT = 2**53
"""Nor a count, which is exact as a float, too."""

StateSource = Literal["plugin", "ledger", "metrics"]
Milliseconds = Annotated[float, msgspec.Meta(ge=0.0, le=MAX_ANSWER_MS)]
"""A time in an answer; who decodes another one gets a ``msgspec.ValidationError``."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""A number of things in an answer; the same."""


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
    quantiles: dict[str, float] | None = None
    """Quantiles of the output length at the start, where a distribution is known."""
    max_tokens: int | None = None
    num_output_tokens: int = 0
    """Tokens that have streamed back."""
    first_token_age_ms: float | None = None
    """Since the first of them; None before it."""
    is_streamed: bool = True
    """False if the answer comes in one piece, so that its first token shows nowhere."""
    slo: Slo | None = None
    num_cached_tokens: int = 0
    """Prompt tokens that the unit's prefix cache probably held when it was sent."""


class EndedRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a request that ended well has really met, since it was sent to the unit: the sidecar's
    calibration learns from it."""

    request_id: str
    ttft_ms: float | None = None
    """None when the answer was not streamed."""
    e2e_ms: float
    num_output_tokens: int | None = None
    """None when the engine did not say."""


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
    num_cached_tokens: int = 0
    """Prompt tokens that the unit's prefix cache is known to hold."""
    priority: int = 0
    slo: Slo | None = None


class PredictBatchRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Independent questions about one unit: each is answered as if it were asked alone."""

    requests: list[PredictRequest]
    sent: list[SentRequest] | None = None
    """All requests that the asking gateway has in flight on this unit; None if it keeps no account,
    which is not the same as having none."""
    simulate: bool = True
    """False asks for the state fields only; latencies are then 0 and ``backend`` is ``none``."""
    cost_to_others: bool = True
    """False leaves what others suffer at 0 and spares the backend a second run."""
    ended: list[EndedRequest] = []
    """Requests that have ended since the last call that was answered."""


class BacklogRequest(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What if the unit got all of these requests now, in this order?"""

    requests: list[PredictRequest]
    sent: list[SentRequest] | None = None
    """As in ``PredictBatchRequest``."""
    max_num_seqs: int | None = None
    """The most requests that the engine is given at a time; None: as many as it takes."""


class Prediction(msgspec.Struct, kw_only=True):
    """One answer. Latencies count from now, in milliseconds; without a suffix they are means."""

    request_id: str
    queue_ms: Milliseconds
    """Until the engine first schedules the request."""
    ttft_ms: Milliseconds
    tpot_ms: Milliseconds
    e2e_ms: Milliseconds
    ttft_p50_ms: Milliseconds = 0.0
    ttft_p90_ms: Milliseconds = 0.0
    tpot_p50_ms: Milliseconds = 0.0
    tpot_p90_ms: Milliseconds = 0.0
    e2e_p50_ms: Milliseconds = 0.0
    e2e_p90_ms: Milliseconds = 0.0
    comparable_e2e_ms: Milliseconds = 0.0
    """``e2e_ms`` without corrections that say nothing about the unit: what units are compared by.
    0 where the sidecar makes none."""
    added_delay_others_ms: Milliseconds
    """How much later the requests already there end because of this one, summed up."""
    max_added_delay_ms: Milliseconds = 0.0
    """The most that one of them ends later."""
    added_gap_ms: Milliseconds = 0.0
    """How much longer the longest wait for a next token becomes for those that are decoding."""
    num_slo_broken: Count = 0
    """Requests that would miss a latency goal with this one and meet it without."""
    kv_blocks_free: Count
    kv_blocks_total: Count
    kv_blocks_wanted: Count
    """Blocks that the prompts of waiting requests need."""
    max_num_seqs: Count = 0
    """Requests that the engine runs at a time; 0 where the sidecar does not say."""
    num_running: Count
    num_waiting: Count
    num_preempted: Count
    """Preemptions of any request that the what-if met before this one ended."""
    num_own_preemptions: Count = 0
    num_unprocessed_tokens: Count
    """Prompt and expected output tokens that the unit still has to process."""
    state_source: StateSource
    state_age_ms: Milliseconds
    """Since the snapshot was taken. An idle engine takes none: nothing running, no harm in age."""
    state_is_stale: bool = False
    """The state is older than the sidecar's limit though the engine has work to do."""
    backend: str
    time_to_predict_ms: Milliseconds


class PredictBatchResponse(msgspec.Struct, kw_only=True):
    """Answers in the order of the questions."""

    predictions: list[Prediction]


class BacklogItem(msgspec.Struct, kw_only=True):
    """What one request of a backlog would meet."""

    request_id: str
    queue_ms: Milliseconds
    ttft_ms: Milliseconds
    tpot_ms: Milliseconds
    e2e_ms: Milliseconds


class BacklogPrediction(msgspec.Struct, kw_only=True):
    """How a unit would work off a backlog; milliseconds from now."""

    requests: list[BacklogItem]
    drain_ms: Milliseconds
    """Until all that the unit holds, the backlog included, has ended."""
    added_delay_others_ms: Milliseconds
    num_slo_broken: Count
    """Requests that were there before and would newly miss a latency goal."""
    state_source: StateSource
    state_age_ms: Milliseconds
    state_is_stale: bool = False
    time_to_predict_ms: Milliseconds
