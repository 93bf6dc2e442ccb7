"""What-ifs that start from a snapshot, next to what vLLM's real scheduler then does.

At a random moment of a workload the scheduler's state is captured as the plug-in does it. From
there on nothing arrives and nobody leaves: the scheduler plays on to the end, and so do, in
``futures.py``, the compiled kernel and the reference, which know the snapshot and the true lengths
of all answers.
"""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from predictor.vllm_plugin.capture import SchedulerCapture
from predictor.vllm_plugin.prefix_hits import MAX_LOOKUPS
from predictor.vllm_plugin.steps import StepTracker
from tests.vllm.players import Future, num_batches_at_once
from tests.vllm.reference_equality import add_to_engine, offline_engine
from tests.vllm.workloads import MAX_STEPS, Workload
from wire.snapshot import EngineSnapshot


class Recording:
    """A run of the real scheduler that is cut off from the world at a random moment."""

    def __init__(self, workload: Workload, model_dir: Path, rng: random.Random) -> None:
        self._workload = workload
        self._engine = offline_engine(workload, model_dir)
        self._steps = StepTracker(lambda: 0.0, lambda: 0.0)
        self._outputs: deque[Any] = deque()
        self._not_before = rng.randrange(workload.arrivals[0].step, workload.last_arrival_step + 1)
        self._with_new_batch = rng.random() < 0.5
        self.snapshot: EngineSnapshot | None = None
        """None before the moment; and for ever if the engine was then idle to the end."""
        self.future = Future()

    def run(self) -> None:
        """Play to the end. The moment is after ``schedule()`` or after ``update_from_output()``."""
        for step in range(MAX_STEPS):
            if self.snapshot is None:
                self._deliver(step)
            self._schedule()
            if self._with_new_batch:
                self._try_capture(step)
            if len(self._outputs) >= num_batches_at_once(self._workload.limits) or not _tokens(
                self._outputs[-1]
            ):
                self._finish_batch()
            if not self._with_new_batch:
                self._try_capture(step)
            if step > self._workload.last_arrival_step and not self._engine.scheduler.requests:
                break
        self._engine.scheduler.shutdown()

    def _deliver(self, step: int) -> None:
        for arrival in self._workload.arriving(step):
            add_to_engine(self._engine, arrival)
        for request_id in self._workload.leaving(step):
            self._engine.abort(request_id)

    def _schedule(self) -> None:
        output = self._engine.schedule()
        self._outputs.append(output)
        self._steps.scheduled(self._engine.scheduler, output, 0.0)
        if self.snapshot is not None:
            self.future.num_preemptions += len(output.preempted_req_ids or ())
            if _tokens(output):
                self.future.batches.append(list(_tokens(output).items()))

    def _finish_batch(self) -> None:
        self._engine.finish_batch()
        self._steps.results_back(self._outputs.popleft(), 0.0, has_more_work=True)

    def _try_capture(self, step: int) -> None:
        scheduler = self._engine.scheduler
        if self.snapshot is not None or step < self._not_before or not scheduler.requests:
            return
        capture = SchedulerCapture(scheduler, "offline", lambda: 0.0, lambda: 0.0)
        # A clock that stands still lets every waiting request be looked up.
        for _ in range(1 + len(scheduler.waiting) // MAX_LOOKUPS):
            capture.refresh_prefix_hits()
        payload = msgspec.msgpack.encode(capture.take(self._steps))
        self.snapshot = msgspec.msgpack.decode(payload, type=EngineSnapshot)


def _tokens(output: Any) -> dict[str, int]:
    tokens: dict[str, int] = output.num_scheduled_tokens
    return tokens
