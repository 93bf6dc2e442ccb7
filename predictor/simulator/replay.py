"""Hindsight: what a request would have met on a unit, with the true length of every answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from predictor.simulator.batch import Batch
from predictor.simulator.live_state import (
    UNLIMITED,
    LiveState,
    from_snapshot,
    lay_into_cache,
    to_sequence,
)
from predictor.simulator.sequence import Sequence
from predictor.step_time.base import StepTime
from wire.snapshot import EngineSnapshot, SequenceState


@dataclass(frozen=True, slots=True)
class FinishTimes:
    """When the replayed request reached its milestones, in seconds from ``now``."""

    queue_s: float
    """Until the start of its first step."""
    ttft_s: float
    e2e_s: float
    preemptions: int
    """Of all sequences, until the request ended."""


def finish_times(
    snapshot: EngineSnapshot,
    lengths: Mapping[str, int],
    request: SequenceState,
    step_time: StepTime,
    now: float,
) -> FinishTimes | None:
    """Step the engine forward until ``request``, which arrives at ``now``, has ended.

    ``lengths`` are output tokens by request id, the new one included; a request without one runs to
    its ``max_tokens``. ``now`` is UNIX seconds, as in the snapshot. With two batches in flight the
    second starts when the first ends. Returns None if the request can never be admitted.

    Raises:
        ValueError: the request's id is in use, or its prompt is empty or too long.
    """
    live = from_snapshot(snapshot, lambda request_id: lengths.get(request_id, UNLIMITED))
    seq = to_sequence(request, lengths.get(request.request_id, UNLIMITED))
    lay_into_cache(live.scheduler, seq, request.num_cached_tokens)
    clock_s = _finish_in_flight(live, step_time, now)
    live.scheduler.add(seq)
    return _step_until_done(live, seq, step_time, clock_s)


def _finish_in_flight(live: LiveState, step_time: StepTime, now: float) -> float:
    """Take in the batches in flight; seconds from ``now`` until the last of them ends."""
    ends_at = 0.0
    for started_at, batch in live.in_flight:
        ends_at = max(started_at, ends_at) + step_time.step_s(batch.shape())
        live.scheduler.update(batch)
    return max(ends_at - now, 0.0)


def _step_until_done(
    live: LiveState, seq: Sequence, step_time: StepTime, clock_s: float
) -> FinishTimes | None:
    scheduler = live.scheduler
    queue_s = ttft_s = 0.0
    preemptions = 0
    is_queued = True
    while seq.status != "finished":
        batch = scheduler.schedule()
        preemptions += len(batch.preempted)
        if not batch.chunks and not batch.preempted:
            return None
        if is_queued and _contains(batch, seq):
            is_queued = False
            queue_s = clock_s
        clock_s += step_time.step_s(batch.shape())
        had_token = seq.num_output_tokens > 0
        scheduler.update(batch)
        if not had_token and seq.num_output_tokens > 0:
            ttft_s = clock_s
    return FinishTimes(queue_s, ttft_s, clock_s, preemptions)


def _contains(batch: Batch, seq: Sequence) -> bool:
    return any(chunk.seq is seq for chunk in batch.chunks)
