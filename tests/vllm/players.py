"""What the compiled kernel and the reference expect of an engine, batch by batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np

from predictor.overlay import build_population
from predictor.simulator.kernel.layout import NUM_COLUMNS, NUM_TIMES, Ints
from predictor.simulator.kernel.load import load_population
from predictor.simulator.kernel.vllm import play
from predictor.simulator.kernel.work import NUM_TRACED, PREEMPTIONS, make_work
from predictor.simulator.live_state import from_snapshot, to_sequence
from predictor.step_time.table import step_table
from wire.prediction import SentRequest
from wire.snapshot import EngineLimits, EngineSnapshot, SequenceState

MAX_STEPS = 100_000

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


def play_kernel(
    snapshot: EngineSnapshot, sent: Sequence[SentRequest], max_steps: int = MAX_STEPS
) -> Future:
    """By the compiled kernel; ``sent`` has the lengths of all, and what the engine has not seen."""
    population = build_population(snapshot, sent, now=snapshot.time)
    limits = snapshot.limits
    engine, _, rows_of = load_population(population)
    work = make_work(len(engine.rows) + 1, limits.block_size)
    trace: Ints = np.zeros((max_steps * (limits.max_num_seqs + 1), 3), dtype=np.int64)
    play(
        engine.limits,
        engine.rows,
        engine.num_running,
        engine.num_free_blocks,
        np.zeros((0, NUM_COLUMNS), dtype=np.int64),
        step_table(np.full(limits.max_num_batched_tokens + 1, 1e-3), limits.max_num_seqs),
        0.0,
        True,
        np.zeros(0, dtype=np.int64),
        max_steps,
        work,
        np.zeros((len(engine.rows) + 1, NUM_TIMES)),
        np.zeros(0),
        np.zeros(1),
        trace,
    )
    ids = [sequence.request_id for sequence in population.running + population.waiting]
    traced = trace[: work.counters[NUM_TRACED]].tolist()
    batches = [
        [(ids[rows_of[slot]], num_tokens) for _, slot, num_tokens in chunks]
        for _, chunks in groupby(traced, key=lambda row: row[0])
    ]
    return Future(batches, int(work.counters[PREEMPTIONS]))


def play_reference(
    snapshot: EngineSnapshot,
    output_length: Callable[[str], int],
    unseen: Sequence[SequenceState] = (),
    max_steps: int = MAX_STEPS,
) -> Future:
    """By the step-by-step reference; ``unseen`` arrive before its first step."""
    live = from_snapshot(snapshot, output_length)
    in_flight = deque(batch for _, batch in live.in_flight)
    most = num_batches_at_once(snapshot.limits)
    if len(in_flight) == most:
        live.scheduler.update(in_flight.popleft())
    for state in unseen:
        live.scheduler.add(to_sequence(state, output_length(state.request_id)))
    future = Future()
    while live.scheduler.sequences and len(future.batches) < max_steps:
        batch = live.scheduler.schedule()
        in_flight.append(batch)
        future.num_preemptions += len(batch.preempted)
        if batch.chunks:
            future.batches.append(list(batch.num_scheduled_tokens.items()))
        if len(in_flight) >= most or not batch.chunks:
            live.scheduler.update(in_flight.popleft())
    return future


def num_batches_at_once(limits: EngineLimits) -> int:
    """Batches in flight while there is work."""
    return 2 if limits.async_scheduling else 1
