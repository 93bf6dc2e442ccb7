"""What a run leaves behind: enough to predict every request again, in any way."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wire.snapshot import EngineSnapshot, StepRecord


class SentRecord(msgspec.Struct, kw_only=True, frozen=True):
    """One request, what its client saw, and the state of its unit when it was sent."""

    request_id: str
    load: str
    """The load of which it was a part."""
    unit: str
    sent_at: float
    """UNIX seconds, just before it left the client."""
    num_prompt_tokens: int
    num_output_tokens: int
    max_tokens: int
    ttft_ms: float
    e2e_ms: float
    snapshot: EngineSnapshot
    """Without recent steps."""

    @property
    def ended_at(self) -> float:
        """UNIX seconds at the client."""
        return self.sent_at + self.e2e_ms / 1e3

    @property
    def tpot_ms(self) -> float | None:
        """Mean time of a token after the first; None where there is none."""
        num_gaps = self.num_output_tokens - 1
        return (self.e2e_ms - self.ttft_ms) / num_gaps if num_gaps > 0 else None


class Run(msgspec.Struct, kw_only=True):
    """Everything seen in one run."""

    engine: str
    model_config: str
    """Path in the project's folder."""
    gpu: str
    load_average: float
    """Of the machine, over the minute before the run."""
    num_failed: int
    requests: list[SentRecord]
    """In the order of sending."""
    steps: dict[str, list[StepRecord]]
    """By unit, in order."""

    def others_in_flight(self, request: SentRecord) -> list[SentRecord]:
        """Requests that the same unit held or was about to get when this one was sent."""
        return [
            other
            for other in self.requests
            if other.unit == request.unit and other.sent_at < request.sent_at < other.ended_at
        ]

    def arrivals_during(self, request: SentRecord) -> list[SentRecord]:
        """Requests that the same unit got while it had this one."""
        return [
            other
            for other in self.requests
            if other.unit == request.unit and request.sent_at < other.sent_at < request.ended_at
        ]


def steps_before(steps: Sequence[StepRecord], time: float) -> list[StepRecord]:
    """Those that had ended by then, in UNIX seconds."""
    return [step for step in steps if step.started_at + step.duration_s <= time]
