"""The engine loop: scheduler steps that take as long as the step-time model says."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from exp.emulator.export import SnapshotExporter
from exp.emulator.generation import Generation
from exp.emulator.metrics import EngineMetrics
from predictor.simulator.batch import Batch
from predictor.simulator.scheduler import Scheduler
from predictor.step_time.base import StepTime


class StepTimer:
    """Durations of steps: the model's, times noise of mean 1, divided by ``speed``."""

    def __init__(self, model: StepTime, rng: random.Random, noise: float, speed: float) -> None:
        self._model = model
        self._rng = rng
        self._noise = noise
        self._speed = speed

    def duration_s(self, batch: Batch) -> float:
        """Seconds that this batch takes here."""
        factor = self._rng.lognormvariate(-(self._noise**2) / 2, self._noise)
        return self._model.step_s(batch.shape()) * factor / self._speed


class Engine:
    """Runs one batch at a time. Requests and aborts take effect between steps, as in vLLM.

    Steps end at points of an absolute clock, so that late wake-ups do not add up. With nothing to
    do the engine sleeps until a request wakes it.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        timer: StepTimer,
        metrics: EngineMetrics,
        exporter: SnapshotExporter,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.scheduler = scheduler
        self.metrics = metrics
        self._timer = timer
        self._exporter = exporter
        self._clock = clock
        self._wall_clock = wall_clock
        self._generations: dict[str, Generation] = {}
        self._arrived: list[Generation] = []
        self._aborted: list[str] = []
        self._work = asyncio.Event()

    def submit(self, generation: Generation) -> None:
        """Hand a request to the scheduler before its next step."""
        self._arrived.append(generation)
        self._work.set()

    def abort(self, request_id: str) -> None:
        """Drop a request before the next step; one that has ended is left alone."""
        self._aborted.append(request_id)
        self._work.set()

    async def run(self) -> None:
        """Step for ever."""
        step_ends_at = self._clock()
        while True:
            self._take_arrivals()
            batch = self.scheduler.schedule()
            if not batch.chunks and not batch.preempted:
                await self._sleep()
                step_ends_at = self._clock()
                continue
            started_at = step_ends_at
            duration_s = self._timer.duration_s(batch)
            step_ends_at += duration_s
            wall_started_at = self._wall(started_at)
            self.metrics.count_batch(batch, self._generations, started_at)
            self._exporter.batch_started(batch, wall_started_at)
            await asyncio.sleep(max(step_ends_at - self._clock(), 0))
            self._take_results(batch)
            self._exporter.batch_ended(batch.shape(), wall_started_at, duration_s)

    def _take_arrivals(self) -> None:
        for generation in self._arrived:
            seq = generation.seq
            self._generations[seq.request_id] = generation
            self.scheduler.add(seq)
        self._arrived.clear()
        for request_id in self._aborted:
            if self.scheduler.abort(request_id) is not None:
                self._end(self._generations[request_id])
        self._aborted.clear()
        self._work.clear()

    async def _sleep(self) -> None:
        self._exporter.idle(self._wall_clock())
        await self._work.wait()

    def _take_results(self, batch: Batch) -> None:
        now = self._clock()
        result = self.scheduler.update(batch)
        sampled = [self._generations[seq.request_id] for seq in result.sampled]
        self.metrics.count_tokens(sampled, now)
        for generation in sampled:
            generation.add_token(now)
        for seq in result.finished:
            self._end(self._generations[seq.request_id])

    def _end(self, generation: Generation) -> None:
        del self._generations[generation.seq.request_id]
        self.metrics.count_end(generation, self._clock())
        generation.wake()

    def _wall(self, monotonic_s: float) -> float:
        return self._wall_clock() - (self._clock() - monotonic_s)
