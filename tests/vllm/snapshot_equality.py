"""What-ifs that start from a snapshot, next to what vLLM's real scheduler then does.

At a random moment of a workload the scheduler's state is captured as the plug-in does it. From
there on nothing arrives and nobody leaves: the scheduler plays on to the end, and so do the
compiled kernel and the reference, which know the snapshot and the true lengths of all answers.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from predictor.overlay import build_population
from predictor.simulator.kernel.layout import NUM_COLUMNS, NUM_TIMES, Ints
from predictor.simulator.kernel.load import load_population
from predictor.simulator.kernel.vllm import PLAYED, play
from predictor.simulator.kernel.work import NUM_TRACED, PREEMPTIONS, make_work
from predictor.simulator.live_state import from_snapshot
from predictor.step_time.table import step_table
from predictor.vllm_plugin.capture import SchedulerCapture
from predictor.vllm_plugin.prefix_hits import MAX_LOOKUPS
from predictor.vllm_plugin.steps import StepTracker
from tests.vllm.reference_equality import add_to_engine, offline_engine
from tests.vllm.workloads import MAX_STEPS, Workload
from wire.prediction import SentRequest
from wire.snapshot import EngineSnapshot

MAX_TRACED = 100_000

Batch = list[tuple[str, int]]
"""(request id, tokens) in order."""


@dataclass(slots=True)
class Future:
    """All that happens from a snapshot on."""

    batches: list[Batch] = field(default_factory=list)
    """Those that are not empty."""
    num_preemptions: int = 0

    def num_equal(self, other: Future) -> int:
        """Batches up to the first that differs."""
        pairs = zip(self.batches, other.batches, strict=False)
        differing = (index for index, (one, two) in enumerate(pairs) if one != two)
        return next(differing, min(len(self.batches), len(other.batches)))


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
            if len(self._outputs) >= self._workload.num_batches_at_once or not _tokens(
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


def play_kernel(snapshot: EngineSnapshot, workload: Workload) -> Future:
    """What the compiled kernel expects."""
    population = build_population(snapshot, _sent(workload), now=0.0)
    engine, _, rows_of = load_population(population)
    work = make_work(len(engine.rows) + 1, workload.limits.block_size)
    trace: Ints = np.zeros((MAX_TRACED, 3), dtype=np.int64)
    table = step_table(
        np.full(workload.limits.max_num_batched_tokens + 1, 1e-3), workload.limits.max_num_seqs
    )
    outcome = play(
        engine.limits,
        engine.rows,
        engine.num_running,
        engine.num_free_blocks,
        np.zeros((0, NUM_COLUMNS), dtype=np.int64),
        table,
        0.0,
        True,
        np.zeros(0, dtype=np.int64),
        MAX_TRACED,
        work,
        np.zeros((len(engine.rows) + 1, NUM_TIMES)),
        np.zeros(0),
        np.zeros(1),
        trace,
    )
    assert outcome == PLAYED, outcome
    ids = [sequence.request_id for sequence in population.running + population.waiting]
    traced = trace[: work.counters[NUM_TRACED]].tolist()
    batches = [
        [(ids[rows_of[slot]], num_tokens) for _, slot, num_tokens in chunks]
        for _, chunks in groupby(traced, key=lambda row: row[0])
    ]
    return Future(batches, int(work.counters[PREEMPTIONS]))


def play_reference(snapshot: EngineSnapshot, workload: Workload) -> Future:
    """What the step-by-step reference expects."""
    lengths = {arrival.request_id: arrival.output_length for arrival in workload.arrivals}
    live = from_snapshot(snapshot, lengths.__getitem__)
    in_flight = deque(batch for _, batch in live.in_flight)
    future = Future()
    if len(in_flight) == workload.num_batches_at_once:
        live.scheduler.update(in_flight.popleft())
    while live.scheduler.sequences:
        batch = live.scheduler.schedule()
        in_flight.append(batch)
        future.num_preemptions += len(batch.preempted)
        if batch.chunks:
            future.batches.append(list(batch.num_scheduled_tokens.items()))
        if len(in_flight) >= workload.num_batches_at_once or not batch.chunks:
            live.scheduler.update(in_flight.popleft())
    return future


def _sent(workload: Workload) -> list[SentRequest]:
    """What a gateway that knows all lengths would tell."""
    return [
        SentRequest(
            request_id=arrival.request_id,
            num_prompt_tokens=len(arrival.prompt),
            expected_output_tokens=arrival.num_output_tokens,
            max_tokens=arrival.max_tokens,
            priority=arrival.priority,
            has_first_token=True,
        )
        for arrival in workload.arrivals
    ]
