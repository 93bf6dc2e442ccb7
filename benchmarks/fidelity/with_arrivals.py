"""A replay that also knows what arrives later, which no prediction can."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from predictor.simulator.batch import Batch
from predictor.simulator.live_state import LiveState, from_snapshot, to_sequence
from predictor.step_time.base import StepTimeModel
from wire.snapshot import EngineSnapshot, SequenceState


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request and when the engine gets it."""

    at: float
    """UNIX seconds."""
    state: SequenceState


@dataclass(frozen=True, slots=True)
class Milestones:
    """Of one request, UNIX seconds."""

    first_token_at: float
    ended_at: float


def replay(
    snapshot: EngineSnapshot,
    lengths: Mapping[str, int],
    arrivals: Sequence[Arrival],
    request_id: str,
    step_time: StepTimeModel,
) -> Milestones:
    """Play an engine from a snapshot until ``request_id``, one of ``arrivals``, has ended.

    ``lengths`` are output tokens by the engine's ids, those of ``arrivals`` included; ``arrivals``
    are in the order of their times. One batch is in flight at a time.
    """
    live = from_snapshot(snapshot, lambda name: lengths.get(name, 1))
    coming = deque(arrivals)
    now = _finish_in_flight(live, step_time, snapshot.time)
    first_token_at: float | None = None
    while True:
        if not live.scheduler.sequences:
            now = max(now, coming[0].at)
        while coming and coming[0].at <= now:
            state = coming.popleft().state
            live.scheduler.add(to_sequence(state, lengths[state.request_id]))
        batch = live.scheduler.schedule()
        now += step_time.step_s(batch.shape())
        result = live.scheduler.update(batch)
        if first_token_at is None and _has(batch, request_id):
            sampled = any(seq.request_id == request_id for seq in result.sampled)
            first_token_at = now if sampled else None
        if any(seq.request_id == request_id for seq in result.finished):
            return Milestones(first_token_at or now, now)


def _finish_in_flight(live: LiveState, step_time: StepTimeModel, now: float) -> float:
    """UNIX seconds when the batches in flight have ended."""
    for started_at, batch in live.in_flight:
        now = max(now, started_at + step_time.step_s(batch.shape()))
        live.scheduler.update(batch)
    return now


def _has(batch: Batch, request_id: str) -> bool:
    return request_id in batch.num_scheduled_tokens
