"""A request of a workload, with what only the experiment knows of it: how long its answer is."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK_TOKENS = 16
"""vLLM's KV blocks; hashes stand for as many tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadRequest:
    """What readers of traces make, the twin plays and real backends send."""

    request_id: str
    at_s: float
    """When it arrives, from the start."""
    num_prompt_tokens: int
    num_output_tokens: int
    """The true length of the answer, which no policy is told."""
    max_tokens: int | None = None
    """What the request itself allows; None: as much as the model takes."""
    request_class: str = "short"
    """``short`` or ``long``, or any other name to report it under; schedulers have their own."""
    prompt: str | None = None
    """Where the text is known."""
    block_hashes: tuple[int, ...] = ()
    """A hash for each full block of prompt and answer, each standing for everything up to the
    block's end: 63-bit integers, equal where and only where the text up to there is. May be shorter
    than the sequence; empty where nothing is shared."""
    session: str = ""
    """Requests of one conversation."""
    user: str = ""
    priority: int = 0
    """vLLM's: lower is more urgent."""
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
