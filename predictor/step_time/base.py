"""The shape of a batch and the contract of every step-time model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from predictor.step_time.table import StepTable


@dataclass(frozen=True, slots=True)
class BatchShape:
    """What a batch costs depends on, as sums; the same features as ``wire.snapshot.StepRecord``.

    A chunk of one token is a *decode*, as attention kernels see it, a longer one a *prefill*.
    """

    num_prefill_tokens: int = 0
    num_decode_tokens: int = 0
    num_prefill_seqs: int = 0
    num_decode_seqs: int = 0
    num_kv_tokens: int = 0
    """Sum over the batch of the context length before this step."""
    prefill_attention: float = 0.0
    """Sum over prefills of n * (ctx - n / 2), with ctx the context after the step."""
    prefill_chunks: tuple[tuple[int, int], ...] = ()
    """Each prefill's (tokens, context before), where known; only measured tables want them."""

    @property
    def num_tokens(self) -> int:
        """Tokens that the batch computes."""
        return self.num_prefill_tokens + self.num_decode_tokens

    @property
    def num_seqs(self) -> int:
        """Sequences in the batch."""
        return self.num_prefill_seqs + self.num_decode_seqs


def batch_shape(
    prefills: Iterable[tuple[int, int]] = (), decode_contexts: Iterable[int] = ()
) -> BatchShape:
    """Sum up prefill chunks ``(num_tokens, context before)`` and the contexts of decodes."""
    chunks = list(prefills)
    contexts = list(decode_contexts)
    return BatchShape(
        num_prefill_tokens=sum(n for n, _ in chunks),
        num_decode_tokens=len(contexts),
        num_prefill_seqs=len(chunks),
        num_decode_seqs=len(contexts),
        num_kv_tokens=sum(context for _, context in chunks) + sum(contexts),
        prefill_attention=sum(n * (context + n / 2) for n, context in chunks),
        prefill_chunks=tuple(chunks),
    )


class StepTime(Protocol):
    """Predicts step durations: all that simulations step by step need."""

    def step_s(self, shape: BatchShape) -> float:
        """Seconds that a step with this batch takes."""


class StepTimeModel(StepTime, Protocol):
    """Predicts step durations for the compiled what-if as well."""

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """The same model for the compiled what-if, for batches up to these sizes."""
