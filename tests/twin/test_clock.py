"""Simulated time."""

from __future__ import annotations

import asyncio

import pytest

from exp.twin.clock import Stalled, VirtualLoop, run_virtually


class Bell:
    """A world in which a bell rings at fixed times."""

    def __init__(self, loop: VirtualLoop, *times_s: float) -> None:
        self.loop = loop
        self.times_s = list(times_s)
        self.heard: asyncio.Future[float] = loop.create_future()

    def advance(self, until_s: float) -> float:
        """To the next ring, if it comes first."""
        if not self.times_s or self.times_s[0] > until_s:
            return until_s
        now_s = self.times_s.pop(0)
        if not self.heard.done():
            self.heard.set_result(now_s)
        return now_s


def test_sleeping_takes_simulated_time_only() -> None:
    """A day passes at once, and everybody wakes at the right moment, in the right order."""
    woken: list[tuple[str, float]] = []

    async def main(loop: VirtualLoop) -> None:
        async def sleeper(name: str, delay_s: float) -> None:
            await asyncio.sleep(delay_s)
            woken.append((name, loop.time()))

        await asyncio.gather(sleeper("day", 86_400), sleeper("blink", 0.001), sleeper("hour", 3600))

    run_virtually(main)
    assert woken == [("blink", 0.001), ("hour", 3600.0), ("day", 86_400.0)]


def test_the_world_wakes_coroutines_between_their_timers() -> None:
    """What happens in the world is seen when it happens, not when the next timer is due."""

    async def main(loop: VirtualLoop) -> tuple[float, float, float]:
        bell = Bell(loop, 1.5, 7.0)
        loop.live_in(bell)
        timer = asyncio.ensure_future(asyncio.sleep(1.0))
        rang_s = await asyncio.wait_for(bell.heard, timeout=10)
        now_s = loop.time()
        await timer
        await asyncio.sleep(10)
        return rang_s, now_s, loop.time()

    assert run_virtually(main) == (1.5, 1.5, 11.5)


def test_a_timeout_is_one_of_simulated_time() -> None:
    """Deadlines hold as they do live."""

    async def main(loop: VirtualLoop) -> float:
        loop.live_in(Bell(loop, 3.0))
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), timeout=2.5)
        return loop.time()

    assert run_virtually(main) == 2.5


def test_waiting_for_nothing_is_an_error() -> None:
    """A run that can never end says so instead of hanging."""

    async def main(loop: VirtualLoop) -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled, match="never happen"):
        run_virtually(main)


def test_what_an_interrupt_leaves_under_way_ends_before_the_loop() -> None:
    """Each task is cancelled and may clean up, in simulated time; the world no longer plays."""
    loops: list[VirtualLoop] = []
    cleaned_up: list[tuple[str, float]] = []

    class Interrupt:
        def advance(self, until_s: float) -> float:
            raise KeyboardInterrupt

    async def main(loop: VirtualLoop) -> None:
        async def sleeper(name: str) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(1)
                cleaned_up.append((name, loop.time()))

        loops.append(loop)
        loop.live_in(Interrupt())
        beside = asyncio.ensure_future(sleeper("beside"))
        await sleeper("main")
        await beside

    with pytest.raises(KeyboardInterrupt):
        run_virtually(main)
    assert sorted(cleaned_up) == [("beside", 1.0), ("main", 1.0)]
    assert loops[0].is_closed()
    assert not asyncio.all_tasks(loops[0])
