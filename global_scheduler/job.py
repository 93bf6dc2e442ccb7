"""A generation request, as everything behind the body's parser knows it."""

from __future__ import annotations

import msgspec

from global_scheduler.prefixes import Prefix
from global_scheduler.queueing.waiting import Waiting
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import PredictRequest, Slo

TOLD_LEVELS = ("0.1", "0.25", "0.5", "0.7", "0.8", "0.9", "0.95")
"""Of the quantiles of a length, those that sidecars are told: with more they predict no better, and
every question carries those of all requests in flight."""


class Job(msgspec.Struct, frozen=True):
    """A generation request, ready to be routed."""

    request_id: str
    model: str
    arrived_s: float
    """On the gateway's clock."""
    num_prompt_tokens: int
    length_question: LengthQuestion
    length: LengthEstimate
    max_tokens: int | None
    priority: int
    """As vLLM takes it: lower is earlier."""
    importance: int
    """As the queues take it: higher is more important."""
    user: str
    """Whose request it is, for fair turns and affinity; empty if nobody says."""
    session_id: str
    prefix: Prefix
    is_streamed: bool
    slo: Slo | None = None

    def question(self) -> PredictRequest:
        """The same, as sidecars are asked."""
        quantiles = self.told_quantiles() or None
        return PredictRequest(
            request_id=self.request_id,
            num_prompt_tokens=self.num_prompt_tokens,
            expected_output_tokens=None if quantiles else self.length.mean_tokens,
            quantiles=quantiles,
            max_tokens=self.max_tokens,
            priority=self.priority,
            slo=self.slo,
        )

    def told_quantiles(self) -> dict[str, float]:
        """Empty when only a mean is known."""
        known = self.length.quantiles
        told = {level: known[level] for level in TOLD_LEVELS if level in known}
        return told if len(told) == len(TOLD_LEVELS) else known

    def waiting(self) -> Waiting:
        """The same, as the queues take it."""
        ttft_ms = self.slo.ttft_ms if self.slo else None
        tpot_ms = self.slo.tpot_ms if self.slo else None
        return Waiting(
            self.request_id,
            self.model,
            self.arrived_s,
            self.num_prompt_tokens,
            self.length.mean_tokens,
            self.importance,
            self.user,
            None if ttft_ms is None else ttft_ms / 1e3,
            None if tpot_ms is None else tpot_ms / 1e3,
        )
