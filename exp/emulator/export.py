"""Builds the snapshots that vLLM's plug-in would export."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable

import msgspec

from predictor.simulator.batch import Batch
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.step_time.base import BatchShape
from wire.snapshot import SNAPSHOT_VERSION, BatchInFlight, EngineSnapshot, SequenceState, StepRecord

NUM_RECENT_STEPS = 64
MAX_WAITING = 256
"""The limits of vLLM's plug-in, which keep the cost of a snapshot bounded."""


class SnapshotExporter:
    """Writes the scheduler's state after each step. Times are UNIX seconds."""

    def __init__(
        self, engine_id: str, model: str, scheduler: Scheduler, write: Callable[[bytes], None]
    ) -> None:
        self._engine_id = engine_id
        self._model = model
        self._scheduler = scheduler
        self._write = write
        self._encode = msgspec.msgpack.Encoder().encode
        self._recent_steps: deque[StepRecord] = deque(maxlen=NUM_RECENT_STEPS)
        self._step = 0
        self._num_preemptions = 0

    def batch_started(self, batch: Batch, started_at: float) -> None:
        """Export the state with this batch in flight."""
        self._step += 1
        self._num_preemptions += len(batch.preempted)
        self._export(started_at, [batch.in_flight(started_at)])

    def batch_ended(self, shape: BatchShape, started_at: float, duration_s: float) -> None:
        """Remember how long the batch took; the next export tells it."""
        record = StepRecord(
            step=self._step,
            started_at=started_at,
            duration_s=duration_s,
            num_prefill_tokens=shape.num_prefill_tokens,
            num_decode_tokens=shape.num_decode_tokens,
            num_prefill_seqs=shape.num_prefill_seqs,
            num_decode_seqs=shape.num_decode_seqs,
            num_kv_tokens=shape.num_kv_tokens,
            prefill_attention=shape.prefill_attention,
        )
        self._recent_steps.append(record)

    def idle(self, now: float) -> None:
        """Export the state of an engine with nothing to do."""
        self._export(now, [])

    def _export(self, now: float, in_flight: list[BatchInFlight]) -> None:
        scheduler = self._scheduler
        waiting = list(itertools.islice(scheduler.waiting, MAX_WAITING))
        snapshot = EngineSnapshot(
            version=SNAPSHOT_VERSION,
            engine_id=self._engine_id,
            model=self._model,
            step=self._step,
            time=now,
            limits=scheduler.limits,
            running=[self._state(seq, 0) for seq in scheduler.running],
            waiting=[self._state(seq, self._num_cached_tokens(seq)) for seq in waiting],
            num_waiting_left_out=len(scheduler.waiting) - len(waiting),
            num_free_blocks=scheduler.kv_cache.pool.num_free,
            num_preemptions=self._num_preemptions,
            in_flight=in_flight,
            recent_steps=list(self._recent_steps),
        )
        self._write(self._encode(snapshot))

    def _num_cached_tokens(self, seq: Sequence) -> int:
        kv_cache = self._scheduler.kv_cache
        return len(kv_cache.find_computed_blocks(seq)) * kv_cache.block_size

    @staticmethod
    def _state(seq: Sequence, num_cached_tokens: int) -> SequenceState:
        assert seq.status != "finished"
        return SequenceState(
            request_id=seq.request_id,
            num_prompt_tokens=seq.num_prompt_tokens,
            num_tokens=seq.num_tokens,
            num_computed_tokens=seq.num_computed_tokens,
            max_tokens=seq.max_tokens,
            priority=seq.priority,
            arrival_time=seq.arrival_time,
            num_preemptions=seq.num_preemptions,
            status=seq.status,
            num_blocks=len(seq.blocks),
            num_cached_tokens=num_cached_tokens,
        )
