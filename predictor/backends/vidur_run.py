"""One run of stock Vidur's Sarathi scheduler from the middle of an engine's life.

Stock Vidur only starts from an empty replica. A run therefore fills the private attributes of its
scheduler and requests as if they had come to the engine's state by themselves. The state is that
at the end of the batches in flight, which were made by the engine and not by Vidur.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from vidur.config import CacheConfig, SarathiSchedulerConfig, SyntheticRequestGeneratorConfig
from vidur.entities import Batch, Replica, Request
from vidur.scheduler.replica_scheduler.sarathi_replica_scheduler import SarathiReplicaScheduler

from predictor.backends.vidur_predictor import TablePredictor, UnitReplicaConfig
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence
from predictor.simulator.kernel.layout import (
    COMPUTED,
    END,
    FIRST_TOKEN,
    NEVER,
    NUM_TIMES,
    PRIORITY,
    PROMPT,
    QUEUE,
    REMAINING,
    TOKENS,
    Floats,
)
from predictor.simulator.kernel.load import Chunks, Loaded, load_population, newcomer_rows
from predictor.simulator.kernel.vidur_state import as_vidur
from wire.snapshot import EngineLimits


class VidurRun:
    """Plays a population and requests that arrive now. Seconds count from the population's now.

    ``others`` are in the order of the rows that the compiled kernel gets.
    """

    def __init__(
        self,
        population: Population,
        predictor: TablePredictor,
        replica: UnitReplicaConfig,
        newcomers: Sequence[SimulatedSequence] = (),
    ) -> None:
        """Set the scheduler up as it is when the batches in flight have ended."""
        self._predictor = predictor
        state = as_vidur(load_population(population), population)
        self.rows_of = state.rows_of
        num_rows, self._num_running = len(state.engine.rows), state.engine.num_running
        rows = list(enumerate(state.engine.rows.tolist()))
        for number, newcomer in enumerate(newcomers):
            row = newcomer_rows([newcomer])[0].tolist()
            position = _queue_position(rows, self._num_running, population.limits, row[PRIORITY])
            rows.insert(position, (num_rows + number, row))
        requests = [
            _vidur_request(row, order, is_running=order < self._num_running)
            for order, (_, row) in enumerate(rows)
        ]
        by_row = dict(zip((number for number, _ in rows), requests, strict=True))
        self.others = [by_row[number] for number in range(num_rows)]
        self.newcomers = [by_row[num_rows + number] for number in range(len(newcomers))]
        self.longest_step_s = 0.0
        """Of those in which a sequence decoded."""
        self._scheduler = _scheduler(population.limits, predictor, replica)
        self.clock_s = self._end_of_flight_s(state, population.now)
        _fill(self._scheduler, requests, self._num_running, state.engine.num_free_blocks)

    def try_step(self) -> bool:
        """Schedule and finish one batch; False when the scheduler has none."""
        batch = self._scheduler.on_schedule(self.clock_s)
        if batch is None:
            return False
        step_s = self._predictor.step_s(batch)
        if any(request.is_prefill_complete for request in batch.requests):
            self.longest_step_s = max(self.longest_step_s, step_s)
        self._finish(batch, self.clock_s + step_s)
        return True

    def play_newcomers(self) -> None:
        """Until the newcomers have ended.

        Raises:
            SimulationFailed: one of them is never scheduled.
        """
        while not all(newcomer.completed for newcomer in self.newcomers):
            if not self.try_step():
                raise SimulationFailed("Vidur's scheduler stalls before the request has ended")

    def play_out(self) -> None:
        """Until nothing is left to do."""
        while self.try_step():
            pass

    @property
    def num_preempted(self) -> int:
        """Preemptions so far."""
        return sum(request.num_restarts for request in self.others + self.newcomers)

    def times(self) -> Floats:
        """The kernel's ``times`` of the others, then of the newcomers; those of now running
        sequences have no ``QUEUE``."""
        times = np.full((len(self.others) + len(self.newcomers), NUM_TIMES), NEVER)
        for row, request in enumerate(self.others + self.newcomers):
            if row >= self._num_running and (request.scheduled or request.num_restarts):
                times[row, QUEUE] = request._scheduled_at
            times[row, FIRST_TOKEN] = request._prefill_completed_at or NEVER
            times[row, END] = request._completed_at if request.completed else NEVER
        return times

    def _end_of_flight_s(self, state: Loaded, now: float) -> float:
        """When the batches in flight end: not before now, however old they are."""
        end_s, earliest_s = 0.0, -math.inf
        for started_at, chunks in state.in_flight:
            if chunks:
                started_s = max(started_at - now, earliest_s)
                end_s = max(0.0, started_s + self._engine_step_s(chunks))
            # With async scheduling a batch waits for the one before it.
            earliest_s = end_s
        return end_s

    def _engine_step_s(self, chunks: Chunks) -> float:
        """Seconds of a batch that the engine has made.

        A decode's context has one token more in Vidur: the token to come is counted, too.
        """
        tokens = [num_tokens for num_tokens, _ in chunks]
        contexts = [context + max(2, num_tokens) for num_tokens, context in chunks]
        nobody = [None] * len(chunks)
        return self._predictor.step_s(Batch(self._scheduler.replica_id, nobody, tokens, contexts))

    def _finish(self, batch: Any, ended_s: float) -> None:
        """Stock Vidur's events of a batch, without its bookkeeping of pipeline stages.

        That bookkeeping trips over requests that were preempted; with one stage nothing needs it.
        """
        batch.on_schedule(self.clock_s)
        batch.on_batch_end(ended_s)
        self._scheduler.on_stage_end(0, None)
        self._scheduler.on_batch_end(batch)
        self.clock_s = ended_s


def _scheduler(limits: EngineLimits, predictor: TablePredictor, replica: UnitReplicaConfig) -> Any:
    return SarathiReplicaScheduler(
        replica_config=replica,
        replica_scheduler_config=SarathiSchedulerConfig(
            batch_size_cap=limits.max_num_seqs, chunk_size=limits.max_num_batched_tokens
        ),
        cache_config=CacheConfig(
            block_size=limits.block_size,
            num_blocks=limits.num_gpu_blocks,
            watermark_blocks_fraction=0.0,  # vLLM V1 keeps none
        ),
        request_generator_config=SyntheticRequestGeneratorConfig(max_tokens=limits.max_model_len),
        replica=Replica(replica),
        num_stages=1,
        execution_time_predictor=predictor,
    )


def _fill(scheduler: Any, requests: list[Any], num_running: int, num_free_blocks: int) -> None:
    """Make a stock scheduler one that has come to hold these requests."""
    cache = scheduler._cache_config
    running = requests[:num_running]
    blocks = [_blocks(request, cache.block_size) for request in running]
    cache.num_blocks = sum(blocks) + num_free_blocks
    for request, num_blocks in zip(running, blocks, strict=True):
        scheduler.allocate(request.id, num_blocks)
    scheduler._preempted_requests = running  # Sarathi keeps its running requests here
    scheduler._request_queue = requests[num_running:]


def _blocks(request: Any, block_size: int) -> int:
    """Blocks that Vidur would have given to a running request by now."""
    tokens = max(request.num_prefill_tokens, request.num_processed_tokens - 1)
    return int(-(-tokens // block_size))


def _queue_position(
    rows: list[tuple[int, list[int]]], num_running: int, limits: EngineLimits, priority: int
) -> int:
    """Where among the numbered rows a request that arrives now is put."""
    if limits.scheduling_policy == "fcfs":
        return len(rows)
    return num_running + sum(row[PRIORITY] <= priority for _, row in rows[num_running:])


def _vidur_request(row: Sequence[int], order: int, *, is_running: bool) -> Any:
    """A Vidur request in the middle of its life; ``order`` stands for its arrival time.

    After a prefill Vidur counts the first output token as processed. A sequence that was preempted
    has to process its generated tokens again, as part of its prefill.
    """
    tokens, computed, prompt, remaining = row[TOKENS], row[COMPUTED], row[PROMPT], row[REMAINING]
    if is_running and tokens > prompt and computed == tokens - 1:
        request = Request(order, prompt, tokens - prompt + remaining)
        request._num_processed_tokens = tokens
        request._is_prefill_complete = True
    else:
        request = Request(order, tokens, remaining)
        request._num_processed_tokens = min(computed, tokens - 1)
    request._is_prefill_stage_complete = True  # asserted where a prefill ends
    return request
