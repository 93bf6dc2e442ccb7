"""Plays the same engine with the compiled kernel and with the step-by-step reference."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass, field

import numpy as np

from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.batch import Batch
from predictor.simulator.kernel.layout import NUM_COLUMNS, NUM_TIMES, Floats, Ints
from predictor.simulator.kernel.load import load_population
from predictor.simulator.kernel.vllm import PLAYED, play
from predictor.simulator.kernel.work import FREE, NUM_TRACED, PREEMPTIONS, make_work
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.step_time.base import BatchShape
from predictor.step_time.table import (
    DECODE_SEQS,
    HAS_PREFILL,
    KV_TOKENS,
    PREFILL_ATTENTION,
    PREFILL_SEQS,
    StepTable,
    step_table,
)

NOBODY: Ints = np.zeros((0, NUM_COLUMNS), dtype=np.int64)
NO_MARKS: Ints = np.zeros(0, dtype=np.int64)
MAX_STEPS = 4000


class SumsStepTime:
    """Every feature of a batch costs something."""

    def step_s(self, shape: BatchShape) -> float:
        """Seconds."""
        return (
            5e-3
            + 1e-4 * shape.num_tokens
            + 1e-7 * shape.num_kv_tokens
            + 1e-9 * shape.prefill_attention
            + 1e-5 * shape.num_decode_seqs
            + 3e-4 * shape.num_prefill_seqs
            + 1e-3 * (shape.num_prefill_seqs > 0)
        )

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """The same as a table."""
        weights = {KV_TOKENS: 1e-7, PREFILL_ATTENTION: 1e-9, DECODE_SEQS: 1e-5}
        weights |= {PREFILL_SEQS: 3e-4, HAS_PREFILL: 1e-3}
        return step_table(5e-3 + 1e-4 * np.arange(max_tokens + 1.0), max_seqs, weights=weights)


TABLE = SumsStepTime().tabulate(2000, 100)


@dataclass
class Played:
    """What happened: batches as (id, tokens) in order, ends in seconds by id."""

    batches: list[list[tuple[str, int]]] = field(default_factory=list)
    ends_s: dict[str, float] = field(default_factory=dict)
    num_preempted: int = 0
    num_free_blocks: int = 0


def population_of(scheduler: Scheduler, in_flight: Many[Batch] = ()) -> Population:
    """The reference's state as a what-if would be told of it, true lengths included."""
    return Population(
        now=0.0,
        limits=scheduler.limits,
        num_free_blocks=scheduler.kv_cache.pool.num_free,
        running=tuple(_simulated(seq, scheduler) for seq in scheduler.running),
        waiting=tuple(_simulated(seq, scheduler) for seq in scheduler.waiting),
        in_flight=tuple(batch.in_flight(started_at=0.0) for batch in in_flight),
    )


def play_reference(scheduler: Scheduler, in_flight: Many[Batch] = ()) -> Played:
    """Step until all have ended; times count from the end of the batches in flight."""
    flight: list[tuple[Batch, float]] = [(batch, 0.0) for batch in in_flight]
    depth = 2 if scheduler.limits.async_scheduling else 1
    played, clock_s = Played(), 0.0
    for _ in range(MAX_STEPS):
        if not scheduler.sequences:
            break
        if len(flight) < depth:
            batch = scheduler.schedule()
            played.num_preempted += len(batch.preempted)
            if batch.chunks:
                played.batches.append(list(batch.num_scheduled_tokens.items()))
            step_s = SumsStepTime().step_s(batch.shape()) if batch.chunks else 0.0
            flight.append((batch, step_s))
        if len(flight) == depth or not flight[-1][0].chunks:
            batch, step_s = flight.pop(0)
            clock_s += step_s
            for seq in scheduler.update(batch).finished:
                played.ends_s[seq.request_id] = clock_s
    assert not scheduler.sequences
    played.num_free_blocks = scheduler.kv_cache.pool.num_free
    return played


def play_kernel(population: Population, *, step_by_step: bool) -> Played:
    """Play until all have ended; batches are known only when it goes step by step."""
    loaded = load_population(population)
    engine, ids = loaded.engine, [seq.request_id for seq in population.running + population.waiting]
    size = len(engine.rows)
    work = make_work(size + 1, population.limits.block_size)
    times: Floats = np.zeros((size, NUM_TIMES))
    trace: Ints = np.zeros((200_000 if step_by_step else 0, 3), dtype=np.int64)
    status = play(
        engine.limits,
        engine.rows,
        engine.num_running,
        engine.num_free_blocks,
        NOBODY,
        TABLE,
        start_s=0.0,
        until_all=True,
        marks=NO_MARKS,
        max_events=100_000,
        work=work,
        times=times,
        marked_s=np.zeros(0),
        longest_step_s=np.zeros(1),
        trace=trace,
    )
    assert status == PLAYED
    names = [ids[index] for index in loaded.rows_of]
    batches: dict[int, list[tuple[str, int]]] = {}
    for step, slot, count in trace[: work.counters[NUM_TRACED]].tolist():
        batches.setdefault(step, []).append((names[slot], count))
    return Played(
        batches=[batches[step] for step in sorted(batches)],
        ends_s={name: end_s for name, (_, _, end_s) in zip(names, times.tolist(), strict=True)},
        num_preempted=int(work.counters[PREEMPTIONS]),
        num_free_blocks=int(work.counters[FREE]),
    )


def _simulated(seq: Sequence, scheduler: Scheduler) -> SimulatedSequence:
    most = min(seq.max_tokens, scheduler.limits.max_model_len - seq.num_prompt_tokens)
    is_running = seq.status == "running"
    return SimulatedSequence(
        request_id=seq.request_id,
        num_prompt_tokens=seq.num_prompt_tokens,
        num_tokens=seq.num_tokens,
        num_computed_tokens=seq.num_computed_tokens - seq.num_in_flight_tokens if is_running else 0,
        remaining_tokens=min(seq.output_length, most) - seq.num_output_tokens,
        max_remaining_tokens=most - seq.num_output_tokens,
        num_blocks=len(seq.blocks),
        priority=seq.priority,
        arrival_time=seq.arrival_time,
    )
