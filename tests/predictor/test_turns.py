"""One call at a time, few waiting, and nobody held up for long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from predictor.errors import Overloaded
from predictor.turns import Turns


@pytest.fixture
def turns() -> Iterator[Turns]:
    """Turns in which two calls may wait or run."""
    made = Turns(2, time.monotonic)
    yield made
    made.close()


def spin(seconds: float) -> Callable[[], None]:
    """A step that keeps its thread busy."""

    def step() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            pass

    return step


def test_quick_steps_run_on_the_event_loop_in_slices(turns: Turns) -> None:
    """What else the loop has to do comes in between."""
    events: list[str] = []

    async def other() -> None:
        while len(events) < 3:
            events.append("other")
            await asyncio.sleep(0)

    async def main() -> None:
        task = asyncio.ensure_future(other())
        threads = await turns.run([lambda: threading.get_ident()], is_quick=True)
        assert threads == [threading.get_ident()]
        await turns.run([spin(0.002)] * 3, is_quick=True)
        events.append("done")
        await task

    asyncio.run(main())
    assert events.index("done") >= 2


def test_slow_steps_leave_the_event_loop(turns: Turns) -> None:
    """They run on a thread of their own, in order."""

    async def main() -> list[int]:
        return await turns.run([threading.get_ident, lambda: 2], is_quick=False)

    thread, second = asyncio.run(main())
    assert thread != threading.get_ident()
    assert second == 2


def test_what_comes_too_late_or_too_many_is_dropped(turns: Turns) -> None:
    """A third call, and steps whose time is over; afterwards all is as before."""

    async def main() -> None:
        slow = [
            asyncio.ensure_future(turns.run([spin(0.05)], is_quick=False)),
            asyncio.ensure_future(turns.run([spin(0.0)], is_quick=True)),
        ]
        await asyncio.sleep(0.01)
        with pytest.raises(Overloaded, match="2 questions wait"):
            await turns.run([spin(0.0)], is_quick=True)
        await asyncio.gather(*slow)
        with pytest.raises(Overloaded, match="deadline"):
            await turns.run([spin(0.0)], is_quick=True, until=time.monotonic() - 1)
        assert turns.num_waiting == 0

    asyncio.run(main())


def test_a_caller_that_leaves_does_not_free_what_still_runs(turns: Turns) -> None:
    """The next call waits for the thread."""
    ended: list[str] = []

    def slow() -> None:
        spin(0.05)()
        ended.append("slow")

    async def main() -> None:
        left = asyncio.ensure_future(turns.run([slow], is_quick=False))
        await asyncio.sleep(0.01)
        left.cancel()
        await turns.run([lambda: ended.append("next")], is_quick=True)

    asyncio.run(main())
    assert ended == ["slow", "next"]
