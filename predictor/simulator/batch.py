"""What one step computes."""

from __future__ import annotations

from dataclasses import dataclass, field

from predictor.simulator.sequence import Sequence
from predictor.step_time.base import BatchShape
from wire.snapshot import BatchInFlight


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence in a batch."""

    seq: Sequence
    num_tokens: int
    context: int
    """Tokens computed before this step."""
    samples: bool
    """The chunk reaches the sequence's last token, so that it yields a new one."""

    @property
    def is_decode(self) -> bool:
        """One token, which is how attention kernels tell decodes from prefills."""
        return self.num_tokens == 1


@dataclass(slots=True)
class Batch:
    """The chunks of one step in scheduling order, and who was preempted to make it."""

    chunks: list[Chunk] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)

    @property
    def num_scheduled_tokens(self) -> dict[str, int]:
        """Tokens by request id, in scheduling order (as in vLLM's ``SchedulerOutput``)."""
        return {chunk.seq.request_id: chunk.num_tokens for chunk in self.chunks}

    def in_flight(self, started_at: float) -> BatchInFlight:
        """What a snapshot tells of the batch; ``started_at`` is in UNIX seconds."""
        return BatchInFlight(
            started_at=started_at,
            num_scheduled_tokens=self.num_scheduled_tokens,
            prefill_chunks=[chunk.seq.request_id for chunk in self.chunks if not chunk.samples],
        )

    def shape(self) -> BatchShape:
        """The sums that step times depend on."""
        prefill_tokens = prefill_seqs = decode_seqs = kv_tokens = 0
        prefill_attention = 0.0
        for chunk in self.chunks:
            kv_tokens += chunk.context
            if chunk.is_decode:
                decode_seqs += 1
            else:
                prefill_seqs += 1
                prefill_tokens += chunk.num_tokens
                prefill_attention += chunk.num_tokens * (chunk.context + chunk.num_tokens / 2)
        return BatchShape(
            num_prefill_tokens=prefill_tokens,
            num_decode_tokens=decode_seqs,
            num_prefill_seqs=prefill_seqs,
            num_decode_seqs=decode_seqs,
            num_kv_tokens=kv_tokens,
            prefill_attention=prefill_attention,
        )


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a finished batch brought."""

    sampled: list[Sequence]
    """Sequences that got a token, finished ones included."""
    finished: list[Sequence]
