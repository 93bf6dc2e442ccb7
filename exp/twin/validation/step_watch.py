"""Follows all steps of engines that publish their states on this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from exp.fleet.plan import Plan
from predictor.errors import StateUnavailable
from predictor.state.plugin import PluginStateSource
from predictor.step_time.records import StepFeed
from wire.snapshot import EngineLimits, StepRecord

POLL_S = 0.2
"""A snapshot carries the last 64 steps, and none takes less than some milliseconds."""


class StepWatch:
    """What engines have done since the watch began, by unit."""

    def __init__(self, engine_ids: Mapping[str, str]) -> None:
        """``engine_ids`` by unit."""
        self.steps: dict[str, list[StepRecord]] = {unit: [] for unit in engine_ids}
        self.limits: dict[str, EngineLimits] = {}
        self._engine_ids = engine_ids
        self._feeds = {unit: StepFeed() for unit in engine_ids}
        self._is_over = threading.Event()

    async def follow(self) -> None:
        """Until ``stop`` is called."""
        sources = {
            unit: PluginStateSource(f"shm:{engine_id}")
            for unit, engine_id in self._engine_ids.items()
        }
        while True:
            is_last = self._is_over.is_set()
            for unit, source in sources.items():
                with suppress(StateUnavailable):  # the engine wrote at every attempt to read
                    snapshot = await source.read()
                    self.limits[unit] = snapshot.limits
                    self.steps[unit] += self._feeds[unit].fresh(snapshot.recent_steps)
            if is_last:
                return
            await asyncio.sleep(POLL_S)

    def stop(self) -> None:
        """Read once more, and end."""
        self._is_over.set()


@contextmanager
def watched(plan: Plan) -> Iterator[StepWatch]:
    """Follow the engines of a running plan, from a thread of its own, while the block lasts."""
    engine_ids = {
        part.name: part.command[part.command.index("--engine-id") + 1]
        for part in plan.parts
        if part.role == "sidecar"
    }
    watch = StepWatch(engine_ids)
    thread = threading.Thread(target=lambda: asyncio.run(watch.follow()), name="step watch")
    thread.start()
    try:
        yield watch
    finally:
        watch.stop()
        thread.join()
