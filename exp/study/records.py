"""What a run leaves of each request, on all backends alike; a row of ``requests.parquet``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["ok", "rejected", "failed", "lost"]
"""``rejected``: 429. ``failed``: another error. ``lost``: no end, or none before the run's."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request. Times are in milliseconds since it arrived at the gateway; latencies are those
    of vLLM's benchmark, None where there is none."""

    request_id: str
    at_s: float
    """From the start of the run."""
    request_class: str
    session: str = ""
    outcome: Outcome = "lost"
    unit: str = ""
    num_prompt_tokens: int
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache, where it tells."""
    expected_output_tokens: float | None = None
    """What the gateway was told."""
    waited_ms: float | None = None
    """In the gateway's queue."""
    decision_ms: float | None = None
    """How long asking and choosing took (in the twin: of this machine's time)."""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2e_ms: float | None = None
    predicted_ttft_ms: float | None = None
    """Of the unit chosen; includes ``waited_ms``."""
    predicted_e2e_ms: float | None = None
    num_preemptions: int = 0
    num_migrations: int = 0
    is_stolen: bool = False
    is_good: bool = False
    """Answered within the goals of its class."""
