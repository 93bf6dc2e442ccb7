"""One run of stock Vidur's Sarathi scheduler from the middle of an engine's life.

Stock Vidur only starts from an empty replica. A run therefore fills the private attributes of its
scheduler and requests as if they had come to the engine's state by themselves.
"""

from __future__ import annotations

import bisect
import math
import sys
from typing import Any

from vidur.config import CacheConfig, SarathiSchedulerConfig, SyntheticRequestGeneratorConfig
from vidur.entities import Batch, Replica, Request
from vidur.scheduler.replica_scheduler.sarathi_replica_scheduler import SarathiReplicaScheduler

from predictor.backends.vidur_predictor import TablePredictor, UnitReplicaConfig
from predictor.errors import SimulationFailed
from predictor.overlay import Population, SimulatedSequence
from wire.snapshot import BatchInFlight


class Progress:
    """When a sequence first had how many of its tokens processed."""

    __slots__ = ("times_s", "tokens")

    def __init__(self) -> None:
        """Nothing has been processed yet."""
        self.tokens: list[int] = []
        self.times_s: list[float] = []

    def note(self, tokens: int, time_s: float) -> None:
        """Record a step's end; tokens that a preemption made it process again do not count."""
        if not self.tokens or tokens > self.tokens[-1]:
            self.tokens.append(tokens)
            self.times_s.append(time_s)

    def try_time_of(self, tokens: int) -> float | None:
        """When that many tokens had been processed, or None if that was never reached."""
        index = bisect.bisect_left(self.tokens, tokens)
        return self.times_s[index] if index < len(self.tokens) else None


class VidurRun:
    """Plays a population, with or without a newcomer. Seconds count from the population's now."""

    def __init__(
        self,
        population: Population,
        predictor: TablePredictor,
        replica: UnitReplicaConfig,
        newcomer: SimulatedSequence | None = None,
    ) -> None:
        """Set the scheduler up and play the batches in flight to their ends."""
        self.clock_s = 0.0
        self.newcomer: Any = None
        num_running = len(population.running)
        waiting = list(population.waiting)
        if newcomer is not None:
            waiting.insert(population.queue_position(newcomer.priority), newcomer)
        requests = [
            _vidur_request(sequence, order, is_running=order < num_running)
            for order, sequence in enumerate([*population.running, *waiting])
        ]
        running, queued = requests[:num_running], requests[num_running:]
        if newcomer is not None:
            self.newcomer = queued[waiting.index(newcomer)]
        self.others = [request for request in requests if request is not self.newcomer]
        self.progress = {request.id: Progress() for request in requests}
        self._predictor = predictor
        self._scheduler = _scheduler(population, predictor, replica, running, queued)
        by_id = {seq.request_id: req for seq, req in zip(population.running, running, strict=True)}
        earliest_s = -math.inf
        for batch in population.in_flight:
            started_s = max(batch.started_at - population.now, earliest_s)
            self._finish_in_flight(batch, started_s, by_id)
            # With async scheduling a batch waits for the one before it.
            earliest_s = self.clock_s
        _take_back_slack(self._scheduler, population)

    def try_step(self) -> bool:
        """Schedule and finish one batch; False when the scheduler has none."""
        batch = self._scheduler.on_schedule(self.clock_s)
        if batch is None:
            return False
        self._finish(batch, self.clock_s, self.clock_s + self._predictor.step_s(batch))
        return True

    def play_newcomer(self) -> None:
        """Until the newcomer has ended.

        Raises:
            SimulationFailed: it is never scheduled.
        """
        while not self.newcomer.completed:
            if not self.try_step():
                raise SimulationFailed("Vidur's scheduler stalls before the request has ended")

    def play_until(self, time_s: float) -> None:
        """Until that time or until nothing is left to do."""
        while self.clock_s < time_s and self.try_step():
            pass

    @property
    def num_preempted(self) -> int:
        """Preemptions so far."""
        requests = [*self.others, self.newcomer] if self.newcomer else self.others
        return sum(request.num_restarts for request in requests)

    def _finish_in_flight(
        self, in_flight: BatchInFlight, started_s: float, by_id: dict[str, Any]
    ) -> None:
        """End a batch that the engine had begun: not before now, however old it is."""
        scheduler = self._scheduler
        requests, q_tokens = [], []
        for request_id, num_tokens in in_flight.num_scheduled_tokens.items():
            request = by_id.get(request_id)
            if request is None or request.completed:
                continue
            if request.is_prefill_complete:
                # As Vidur does when it schedules; without it a request may lack two tokens later.
                scheduler._allocate_request(request)
            left = request.num_prefill_tokens - request.num_processed_tokens
            requests.append(request)
            q_tokens.append(1 if request.is_prefill_complete else max(1, min(num_tokens, left)))
        if not requests:
            return
        kv_tokens = [r.num_processed_tokens + q for r, q in zip(requests, q_tokens, strict=True)]
        batch = Batch(scheduler.replica_id, requests, q_tokens, kv_tokens)
        taken = {request.id for request in requests}
        scheduler._preempted_requests = [
            request for request in scheduler._preempted_requests if request.id not in taken
        ]
        scheduler._num_running_batches += 1
        scheduler._num_running_stages += 1
        self._finish(batch, started_s, max(0.0, started_s + self._predictor.step_s(batch)))
        scheduler._preempted_requests.sort(key=lambda request: request.arrived_at)

    def _finish(self, batch: Any, started_s: float, ended_s: float) -> None:
        """Stock Vidur's events of a batch, without its bookkeeping of pipeline stages.

        That bookkeeping trips over requests that were preempted; with one stage nothing needs it.
        """
        batch.on_schedule(started_s)
        batch.on_batch_end(ended_s)
        self._scheduler.on_stage_end(0, None)
        self._scheduler.on_batch_end(batch)
        self.clock_s = ended_s
        for request in batch.requests:
            self.progress[request.id].note(request.num_processed_tokens, ended_s)


def _scheduler(
    population: Population,
    predictor: TablePredictor,
    replica: UnitReplicaConfig,
    running: list[Any],
    queued: list[Any],
) -> Any:
    """A stock scheduler that has come to hold these requests."""
    limits = population.limits
    scheduler = SarathiReplicaScheduler(
        replica_config=replica,
        replica_scheduler_config=SarathiSchedulerConfig(
            batch_size_cap=limits.max_num_seqs, chunk_size=limits.max_num_batched_tokens
        ),
        cache_config=CacheConfig(
            block_size=limits.block_size,
            num_blocks=sys.maxsize,  # until the batches in flight have ended
            watermark_blocks_fraction=0.0,  # vLLM V1 keeps none
        ),
        request_generator_config=SyntheticRequestGeneratorConfig(max_tokens=limits.max_model_len),
        replica=Replica(replica),
        num_stages=1,
        execution_time_predictor=predictor,
    )
    for request in running:
        scheduler.allocate(request.id, _blocks(request, limits.block_size))
    scheduler._preempted_requests = list(running)  # Sarathi keeps its running requests here
    scheduler._request_queue = list(queued)
    return scheduler


def _take_back_slack(scheduler: Any, population: Population) -> None:
    """Leave the scheduler the engine's blocks, or those that it has given out if they are more.

    Reserving whole prompts and sharing none, Vidur may count more than the engine does.
    """
    held = population.num_free_blocks + sum(seq.num_blocks for seq in population.running)
    scheduler._cache_config.num_blocks = max(held, scheduler.num_allocated_blocks)


def _blocks(request: Any, block_size: int) -> int:
    """Blocks that Vidur would have given to a running request by now."""
    tokens = max(request.num_prefill_tokens, request.num_processed_tokens - 1)
    return int(-(-tokens // block_size))


def _vidur_request(sequence: SimulatedSequence, order: int, *, is_running: bool) -> Any:
    """A Vidur request in the middle of its life; ``order`` stands for its arrival time.

    After a prefill Vidur counts the first output token as processed. A sequence that was preempted
    has to process its generated tokens again, as part of its prefill.
    """
    generated = sequence.num_tokens - sequence.num_prompt_tokens
    is_computed = sequence.num_computed_tokens >= sequence.num_tokens - 1
    decoding = is_running and generated > 0 and is_computed
    if decoding:
        request = Request(order, sequence.num_prompt_tokens, generated + sequence.remaining_tokens)
        request._num_processed_tokens = sequence.num_tokens
        request._prefill_completed_at = -1.0
        request._is_prefill_complete = True
    else:
        request = Request(order, sequence.num_tokens, sequence.remaining_tokens)
        request._num_processed_tokens = min(sequence.num_computed_tokens, sequence.num_tokens - 1)
    request._is_prefill_stage_complete = True  # asserted where a prefill ends
    return request
