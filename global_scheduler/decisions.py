"""The log of the last decisions: what was predicted, what was chosen, what happened."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from global_scheduler.queueing.waiting import RequestClass

CAPACITY = 1_000
SHOWN_LEVELS = ("0.1", "0.5", "0.9")
"""Of the quantiles of a length."""


class CandidateView(msgspec.Struct, kw_only=True):
    """What the decision saw of one unit; predictions are None where its sidecar did not answer."""

    unit: str
    predicted_ttft_ms: float | None
    predicted_e2e_ms: float | None
    state_source: str | None
    state_age_ms: float | None
    num_outstanding: int
    num_cached_tokens: int = 0
    """Prompt tokens that its prefix cache was taken to hold."""


class Decision(msgspec.Struct, kw_only=True):
    """One routed request. Observed fields stay None until the request has ended; ``explanations``
    fills ``reason`` and ``candidates`` in when the engine has the request."""

    request_id: str
    time: float
    """UNIX seconds."""
    model: str
    policy: str
    fallback: str | None
    is_exploration: bool = False
    """The unit was not the best one, but had been sent nothing for a while."""
    unit: str
    reason: str = ""
    """In words."""
    candidates: list[CandidateView] = []
    waited_ms: float = 0.0
    """From the request's arrival until units were asked; predicted latencies count it."""
    request_class: RequestClass = "short"
    is_stolen: bool = False
    """The unit was of the other pool."""
    num_prompt_tokens: int
    expected_output_tokens: float
    """The mean."""
    output_token_quantiles: dict[str, float] = {}
    """By level; of all that are known, those in ``SHOWN_LEVELS``."""
    length_source: str
    decision_ms: float
    predicted_ttft_ms: float | None
    predicted_e2e_ms: float | None
    observed_ttft_ms: float | None = None
    observed_e2e_ms: float | None = None
    observed_output_tokens: int | None = None
    status: int | None = None
    """HTTP status of the answer; 499 when the client left."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        fields: dict[str, Any] = msgspec.to_builtins(self)
        return fields


class DecisionLog:
    """The last ``CAPACITY`` decisions, newest last."""

    def __init__(self) -> None:
        self._decisions: deque[Decision] = deque(maxlen=CAPACITY)

    def add(self, decision: Decision) -> None:
        """Append; the oldest falls out."""
        self._decisions.append(decision)

    def last(self, limit: int) -> list[Decision]:
        """The newest ``limit`` decisions, oldest first."""
        return list(self._decisions)[-limit:] if limit > 0 else []
