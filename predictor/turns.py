"""Whose turn it is: a backend serves one call at a time, and few may wait for it.

A late prediction is worth nothing to a gateway that had to decide, so what waits is bounded and
what nobody waits for any more is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from predictor.errors import Overloaded

_Result = TypeVar("_Result")

SLICE_S = 1e-3
"""A call that runs on the event loop lets others in after this long."""


class Turns:
    """Runs calls one after the other, on the event loop or on a thread of their own."""

    def __init__(self, max_waiting: int, timer: Callable[[], float]) -> None:
        """``timer`` gives monotonic seconds."""
        self._max_waiting = max_waiting
        self._timer = timer
        self._lock = asyncio.Lock()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="what-if")
        self.num_waiting = 0
        """Calls that wait or run."""

    async def run(
        self,
        steps: Sequence[Callable[[], _Result]],
        *,
        is_quick: bool,
        until: float | None = None,
    ) -> list[_Result]:
        """What each step returns; quick ones run on the event loop. ``until`` is the timer's.

        Raises:
            Overloaded: too many calls wait already, or the time is over before a step's turn.
        """
        if self.num_waiting >= self._max_waiting:
            raise Overloaded(f"{self.num_waiting} questions wait already; ask again later")
        self.num_waiting += 1
        try:
            async with self._lock:
                if is_quick:
                    return await self._run_in_slices(steps, until)
                return await self._run_on_thread(steps, until)
        finally:
            self.num_waiting -= 1

    async def load(self, load: Callable[[], _Result]) -> _Result:
        """Run what may take seconds, on the thread."""
        async with self._lock:
            return await asyncio.get_running_loop().run_in_executor(self._worker, load)

    def close(self) -> None:
        """Let the running call end."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    async def _run_in_slices(
        self, steps: Sequence[Callable[[], _Result]], until: float | None
    ) -> list[_Result]:
        results = []
        slice_ends = self._timer() + SLICE_S
        for step in steps:
            if self._timer() >= slice_ends:
                await asyncio.sleep(0)
                slice_ends = self._timer() + SLICE_S
            results.append(self._in_time(step, until))
        return results

    async def _run_on_thread(
        self, steps: Sequence[Callable[[], _Result]], until: float | None
    ) -> list[_Result]:
        def run() -> list[_Result]:
            return [self._in_time(step, until) for step in steps]

        future = asyncio.get_running_loop().run_in_executor(self._worker, run)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # A caller that gives up does not stop what runs, and the backend is not free before.
            await asyncio.wait([future])
            raise

    def _in_time(self, step: Callable[[], _Result], until: float | None) -> _Result:
        if until is not None and self._timer() >= until:
            raise Overloaded("the deadline passed before the question's turn")
        return step()
