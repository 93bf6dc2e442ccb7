"""vLLM's real scheduler and our reference of its rules, step by step under the same load."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from exp.vllm_cpu.offline import OfflineEngine
from predictor.simulator.batch import Batch
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import BlockHash, Sequence
from tests.vllm.players import num_batches_at_once
from tests.vllm.workloads import MAX_STEPS, Arrival, Workload

SCHEDULERS = {
    False: "vllm.v1.core.sched.scheduler.Scheduler",
    True: "vllm.v1.core.sched.async_scheduler.AsyncScheduler",
}

View = dict[str, Any]


def offline_engine(workload: Workload, model_dir: Path) -> OfflineEngine:
    """The stock scheduler of vLLM that suits a workload."""
    return OfflineEngine(SCHEDULERS[workload.limits.async_scheduling], model_dir, workload.limits)


def add_to_engine(engine: OfflineEngine, arrival: Arrival) -> Any:
    """Queue a request; returns vLLM's."""
    return engine.add(
        arrival.request_id,
        arrival.prompt,
        arrival.max_tokens,
        arrival.priority,
        output_length=arrival.output_length,
        arrival_time=arrival.arrival_time,
    )


class SideBySide:
    """Both schedulers under one load."""

    def __init__(self, workload: Workload, model_dir: Path) -> None:
        self._workload = workload
        self._real = offline_engine(workload, model_dir)
        self._ours = Scheduler(workload.limits)
        self._in_flight: deque[Batch] = deque()
        self._sequences: list[Sequence] = []
        self.num_steps = 0
        self.num_preemptions = 0

    @property
    def num_hits(self) -> int:
        """Requests that found a part of their prompt in the prefix cache."""
        return sum(seq.num_cached_tokens > 0 for seq in self._sequences)

    def try_find_difference(self) -> View | None:
        """Play to the end; the first thing that differs, if any."""
        for step in range(MAX_STEPS):
            self._deliver(step)
            if difference := self._schedule() or self._finish_batch():
                return {"step": step, **difference}
            if step > self._workload.last_arrival_step and not self._ours.sequences:
                self._real.scheduler.shutdown()
                return None
        return {"step": MAX_STEPS, "what": "it never ends"}

    def _deliver(self, step: int) -> None:
        for arrival in self._workload.arriving(step):
            request = add_to_engine(self._real, arrival)
            hashes: tuple[BlockHash, ...] = ()
            if self._workload.limits.enable_prefix_caching:
                hashes = tuple(bytes(block_hash) for block_hash in request.block_hashes)
            self._sequences.append(arrival.to_sequence(hashes))
            self._ours.add(self._sequences[-1])
        for request_id in self._workload.leaving(step):
            self._real.abort(request_id)
            self._ours.abort(request_id)

    def _schedule(self) -> View | None:
        output, batch = self._real.schedule(), self._ours.schedule()
        self._in_flight.append(batch)
        self.num_steps += bool(batch.chunks)
        self.num_preemptions += len(batch.preempted)
        return _difference(
            {
                "batch": list(output.num_scheduled_tokens.items()),
                "preempted": set(output.preempted_req_ids or ()),
                **_view_of_real(self._real.scheduler),
            },
            {
                "batch": list(batch.num_scheduled_tokens.items()),
                "preempted": {seq.request_id for seq in batch.preempted},
                **_view_of_ours(self._ours),
            },
        )

    def _finish_batch(self) -> View | None:
        is_full = len(self._in_flight) >= num_batches_at_once(self._workload.limits)
        if not is_full and self._in_flight[-1].chunks:
            return None
        self._real.finish_batch()
        self._ours.update(self._in_flight.popleft())
        return _difference(_view_of_real(self._real.scheduler), _view_of_ours(self._ours))


def _view_of_real(scheduler: Any) -> View:
    return {
        "running": [_counts(request) for request in scheduler.running],
        "waiting": [request.request_id for request in scheduler.waiting],
        "free blocks": scheduler.kv_cache_manager.block_pool.get_num_free_blocks(),
    }


def _view_of_ours(scheduler: Scheduler) -> View:
    return {
        "running": [_counts(seq) for seq in scheduler.running],
        "waiting": [seq.request_id for seq in scheduler.waiting],
        "free blocks": scheduler.kv_cache.pool.num_free,
    }


def _counts(request: Any) -> tuple[str, int, int, int]:
    computed, placeholders = request.num_computed_tokens, request.num_output_placeholders
    return request.request_id, request.num_tokens, computed, placeholders


def _difference(real: View, ours: View) -> View | None:
    for what, value in real.items():
        if value != ours[what]:
            return {"what": what, "real": str(value), "ours": str(ours[what])}
    return None
