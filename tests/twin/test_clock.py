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
    loop = VirtualLoop()
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        woken.append((name, loop.time()))

    async def main() -> None:
        await asyncio.gather(sleeper("day", 86_400), sleeper("blink", 0.001), sleeper("hour", 3600))

    run_virtually(loop, main())
    assert woken == [("blink", 0.001), ("hour", 3600.0), ("day", 86_400.0)]


def test_the_world_wakes_coroutines_between_their_timers() -> None:
    """What happens in the world is seen when it happens, not when the next timer is due."""
    loop = VirtualLoop()
    bell = Bell(loop, 1.5, 7.0)
    loop.live_in(bell)

    async def main() -> tuple[float, float, float]:
        timer = asyncio.ensure_future(asyncio.sleep(1.0))
        rang_s = await asyncio.wait_for(bell.heard, timeout=10)
        now_s = loop.time()
        await timer
        await asyncio.sleep(10)
        return rang_s, now_s, loop.time()

    assert run_virtually(loop, main()) == (1.5, 1.5, 11.5)


def test_a_timeout_is_one_of_simulated_time() -> None:
    """Deadlines hold as they do live."""
    loop = VirtualLoop()
    loop.live_in(Bell(loop, 3.0))

    async def main() -> float:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), timeout=2.5)
        return loop.time()

    assert run_virtually(loop, main()) == 2.5


def test_waiting_for_nothing_is_an_error() -> None:
    """A run that can never end says so instead of hanging."""
    loop = VirtualLoop()

    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled, match="never happen"):
        run_virtually(loop, main())
