"""One request inside the simulated engine (mirrors ``vllm/v1/request.py``, 0.32)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Status = Literal["waiting", "running", "preempted", "finished"]
FinishReason = Literal["stop", "length", "abort"]

BlockHash = int | bytes | tuple[str, int]
"""Identifies the content of a block and of everything before it (a chained hash)."""


@dataclass(slots=True, eq=False)
class Sequence:
    """The scheduler's view of a request, and ``output_length``, which only the simulation knows."""

    request_id: str
    num_prompt_tokens: int
    max_tokens: int
    output_length: int
    """Output tokens up to and including the stop token."""
    priority: int = 0
    """Smaller is more urgent, as in vLLM."""
    arrival_time: float = 0.0
    block_hashes: tuple[BlockHash, ...] = ()
    """Of the prompt's full blocks, first block first; blocks without one match nobody else's."""
    status: Status = "waiting"
    finish_reason: FinishReason | None = None
    num_output_tokens: int = 0
    num_computed_tokens: int = 0
    """Tokens whose KV entries exist or are being computed by a batch in flight."""
    num_output_placeholders: int = 0
    """Tokens being sampled by batches in flight (async scheduling)."""
    num_in_flight_tokens: int = 0
    num_stale_tokens: int = 0
    """Tokens in flight that were scheduled before a preemption."""
    num_preemptions: int = 0
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache at the last admission."""
    num_cached_blocks: int = 0
    """Leading blocks that are in the prefix cache."""
    blocks: list[int] = field(default_factory=list)

    @property
    def num_tokens(self) -> int:
        """Prompt and generated tokens so far."""
        return self.num_prompt_tokens + self.num_output_tokens

    @property
    def order(self) -> tuple[int, float, str]:
        """The priority policy's order: the smallest is admitted first."""
        return (self.priority, self.arrival_time, self.request_id)

    def block_hash(self, index: int) -> BlockHash:
        """The hash of a full block; one that no other sequence has where none was given."""
        if index < len(self.block_hashes):
            return self.block_hashes[index]
        return (self.request_id, index)

    def append_token(self, max_model_len: int) -> bool:
        """Add one sampled token; True if it ends the request (vLLM's ``check_stop``)."""
        self.num_output_tokens += 1
        if self.num_output_tokens >= self.output_length:
            self.finish_reason = "stop"
        elif self.num_tokens >= max_model_len or self.num_output_tokens >= self.max_tokens:
            self.finish_reason = "length"
        return self.finish_reason is not None
