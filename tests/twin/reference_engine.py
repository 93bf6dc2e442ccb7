"""One engine of the twin beside the simulator's scheduler, which both get the same requests."""

from __future__ import annotations

import random

import numpy as np

from exp.twin.engines import END, FIRST_TOKEN, EngineEvent, EngineRequest, Engines, EngineSpec
from exp.twin.kernel import layout
from exp.twin.kernel.blocks import count_hits
from predictor.simulator.batch import Batch
from predictor.simulator.scheduler import Scheduler
from predictor.simulator.sequence import Sequence
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.predictor.engines import MODEL
from wire.snapshot import EngineLimits

STEP_TIME = RooflineStepTime(MODEL, find_gpu("A30"))


def random_limits(rng: random.Random) -> EngineLimits:
    """Little memory, so that sequences are preempted, and every rule of the scheduler."""
    block_size, is_chunked = rng.choice([4, 16]), rng.random() < 0.8
    return EngineLimits(
        max_num_seqs=rng.choice([2, 5, 16]),
        max_num_batched_tokens=rng.choice([32, 64, 256]) if is_chunked else 300,
        max_model_len=rng.choice([150, 300]),
        block_size=block_size,
        num_gpu_blocks=rng.choice([1, 2, 4]) * 300 // block_size,
        long_prefill_token_threshold=rng.choice([0, 0, 20]),
        enable_chunked_prefill=is_chunked,
        enable_prefix_caching=rng.random() < 0.7,
        scheduling_policy=rng.choice(["fcfs", "fcfs", "priority"]),
    )


class EnginePair:
    """Compares them at every step."""

    def __init__(self, seed: int) -> None:
        """The same seed gives the same engine and the same requests."""
        self.rng = random.Random(seed)
        self.limits = random_limits(self.rng)
        table = STEP_TIME.tabulate(
            self.limits.max_num_batched_tokens + self.limits.max_num_seqs, self.limits.max_num_seqs
        )
        self.engines = Engines([EngineSpec(self.limits, table, 0.0)], seed=seed)
        self.scheduler = Scheduler(self.limits)
        self.first_cached: dict[str, int] = {}
        self.num_preempted = self.num_hits = self.num_steps = self.num_ended = 0
        self._num_added = 0
        self._clock_s = 0.0
        self._aborted: list[str] = []

    def add(self) -> None:
        """A new request, most likely with a prefix that others have as well."""
        rng, index, size = self.rng, self._num_added, self.limits.block_size
        self._num_added += 1
        prompt = rng.choice([rng.randint(1, 40), rng.randint(1, 140)])
        length, priority = rng.randint(1, 60), rng.randint(0, 2)
        max_tokens = rng.choice([1000, rng.randint(1, 60)])
        family, num_shared = rng.randint(0, 2), rng.randint(0, 20)
        hashes = [
            family * 1000 + place if place < num_shared else (index + 10) * 1000 + place
            for place in range(rng.choice([0, prompt // size, (prompt + length) // size]))
        ]
        request = EngineRequest(
            index, prompt, length, max_tokens, priority, np.array(hashes, dtype=np.int64)
        )
        self.engines.add(0, request)
        self.scheduler.add(
            Sequence(
                request_id=str(index),
                num_prompt_tokens=prompt,
                max_tokens=max_tokens,
                output_length=length,
                priority=priority,
                arrival_time=float(index),
                block_hashes=tuple(hashes),
            )
        )

    def abort_one(self) -> None:
        """Any of them, when the step ends."""
        request_id = self.rng.choice(sorted(self.scheduler.sequences) or ["0"])
        self.engines.abort(0, int(request_id))
        self._aborted.append(request_id)

    def step(self) -> None:
        """One step of both, which must be the same."""
        self.engines.advance(self._clock_s)  # an idle engine starts
        batch = self._scheduled()
        self._compare(batch)
        if not batch.chunks:
            return
        self.num_steps += 1
        self._clock_s += STEP_TIME.step_s(batch.shape())
        if self.rng.random() < 0.3:
            self.add()
        if self.rng.random() < 0.05:
            self.abort_one()
        events = self.engines.advance(float(self.engines.fleet.clocks[0, layout.ENDS_S]))
        assert abs(self.engines.now_s - self._clock_s) < 1e-9
        self._clock_s = self.engines.now_s
        self._check_events(events, batch)

    def _scheduled(self) -> Batch:
        """The next batch; the scheduler is asked again where it has only preempted."""
        while True:
            batch = self.scheduler.schedule()
            self.num_preempted += len(batch.preempted)
            for chunk in batch.chunks:
                cached = self.first_cached.setdefault(
                    chunk.seq.request_id, chunk.seq.num_cached_tokens
                )
                self.num_hits += cached > 0
            if batch.chunks or not batch.preempted:
                return batch

    def _compare(self, batch: Batch) -> None:
        fleet, seqs = self.engines.fleet, self.engines.fleet.seqs
        engine = fleet.engines[0]
        running = [seqs[slot] for slot in fleet.running[0, : engine[layout.NUM_RUNNING]]]
        assert [str(seq[layout.INDEX]) for seq in running] == [
            seq.request_id for seq in self.scheduler.running
        ]
        assert {
            str(seq[layout.INDEX]): int(seq[layout.CHUNK]) for seq in running if seq[layout.CHUNK]
        } == batch.num_scheduled_tokens
        assert engine[layout.NUM_FREE] == self.scheduler.kv_cache.pool.num_free
        waiting, slot = [], int(engine[layout.FIRST_WAITING])
        while slot != layout.NONE:
            waiting.append((str(seqs[slot, layout.INDEX]), count_hits(fleet, 0, slot)))
            slot = int(seqs[slot, layout.NEXT])
        find = self.scheduler.kv_cache.find_computed_blocks
        assert waiting == [
            (seq.request_id, len(find(seq)) * self.limits.block_size)
            for seq in self.scheduler.waiting
        ]

    def _check_events(self, events: list[EngineEvent], batch: Batch) -> None:
        result = self.scheduler.update(batch)
        for request_id in self._aborted:
            self.scheduler.abort(request_id)
        gone = set(self._aborted)
        self._aborted.clear()
        firsts = [s.request_id for s in result.sampled if s.num_output_tokens == 1]
        first_events = [str(e.index) for e in events if e.kind == FIRST_TOKEN]
        assert first_events == [request_id for request_id in firsts if request_id not in gone]
        self.num_ended += len(result.finished)
        assert [
            (str(e.index), e.num_output_tokens, e.num_preemptions, e.num_cached_tokens,
             "length" if e.ended_by_length else "stop")
            for e in events if e.kind == END
        ] == [
            (s.request_id, s.num_output_tokens, s.num_preemptions, self.first_cached[s.request_id],
             s.finish_reason)
            for s in result.finished if s.request_id not in gone
        ]  # fmt: skip
