"""What passes between the validation and the process that runs stock Vidur."""

from __future__ import annotations

import msgspec

from wire.snapshot import EngineLimits

QUESTION, ANSWERS = "question.json", "answers.json"
"""Names of files."""


class Question(msgspec.Struct, kw_only=True, frozen=True):
    """A cluster of equal units and its load."""

    model_config: str
    """Path."""
    gpu: str
    num_units: int
    limits: EngineLimits
    requests: list[tuple[float, int, int]]
    """Arrival in seconds, tokens of the prompt, tokens of the answer; by arrival."""


class Latencies(msgspec.Struct, kw_only=True, frozen=True):
    """What one request met."""

    ttft_ms: float
    e2e_ms: float
    num_restarts: int
    """After preemptions."""
