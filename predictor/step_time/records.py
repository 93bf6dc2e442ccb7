"""Which of an engine's step records can be learnt from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from predictor.step_time.base import BatchShape
from wire.snapshot import StepRecord

MAX_STEP_S = 600.0
"""No step takes as long; a record that says so is refused."""
_MIN_STEP_S = 1e-6
_MAX_COUNT = 10**7
_REMEMBERED = 1024
"""Far more than a snapshot holds."""


class StepFeed:
    """Takes each record once: every snapshot repeats the last steps of those before it.

    An engine that starts anew counts its steps from 0 again, at other times.
    """

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._seen: dict[tuple[int, float], None] = {}
        self.num_refused = 0
        """Records with impossible values so far."""

    def fresh(self, records: Sequence[StepRecord]) -> list[StepRecord]:
        """The usable ones among those that have not been seen."""
        unseen = [r for r in records if (r.step, r.started_at) not in self._seen]
        for record in unseen:
            self._seen[record.step, record.started_at] = None
        while len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        usable = [record for record in unseen if is_usable(record)]
        self.num_refused += len(unseen) - len(usable)
        return usable


def is_usable(record: StepRecord) -> bool:
    """Whether the record can be true: a finite, positive time and counts that fit one another."""
    counts = (
        record.num_prefill_tokens,
        record.num_decode_tokens,
        record.num_prefill_seqs,
        record.num_decode_seqs,
        record.num_kv_tokens,
    )
    pairs = record.num_prefill_tokens * (record.num_kv_tokens + record.num_prefill_tokens)
    return (
        _MIN_STEP_S <= record.duration_s <= MAX_STEP_S
        and all(0 <= count <= _MAX_COUNT for count in counts)
        and record.num_prefill_tokens + record.num_decode_tokens > 0
        and record.num_prefill_seqs <= record.num_prefill_tokens
        and (record.num_prefill_seqs > 0) == (record.num_prefill_tokens > 0)
        and math.isfinite(record.prefill_attention)
        and 0 <= record.prefill_attention <= pairs
    )


def record_shape(record: StepRecord) -> BatchShape:
    """The batch of a record; its single prefill chunks are not known."""
    return BatchShape(
        num_prefill_tokens=record.num_prefill_tokens,
        num_decode_tokens=record.num_decode_tokens,
        num_prefill_seqs=record.num_prefill_seqs,
        num_decode_seqs=record.num_decode_seqs,
        num_kv_tokens=record.num_kv_tokens,
        prefill_attention=record.prefill_attention,
    )
