"""An event loop whose time is simulated: it never waits, it jumps.

The gateway's own coroutines run on it unchanged. Whenever they all wait, the loop asks the *world*
to play on until the next timer is due; the world stops earlier if something happens that they wait
for. Nothing may block or do I/O on this loop.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class World(Protocol):
    """What goes on beside the coroutines."""

    def advance(self, until_s: float) -> float:
        """Play up to ``until_s`` or to the first moment at which a coroutine is woken; that moment.

        ``until_s`` may be infinite; if nothing will ever happen again, so is the answer.
        """


class Stalled(RuntimeError):
    """Everything waits and nothing will ever happen."""


class _NoFiles(selectors.BaseSelector):
    """Watches nothing but the loop's own wake-up socket, and lets the world play meanwhile."""

    def __init__(self) -> None:
        self._keys: dict[Any, selectors.SelectorKey] = {}
        self.now_s = 0.0
        self.world: World | None = None

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        number = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        self._keys[fileobj] = selectors.SelectorKey(fileobj, number, events, data)
        return self._keys[fileobj]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._keys

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return []
        until_s = float("inf") if timeout is None else self.now_s + timeout
        self.now_s = self.world.advance(until_s) if self.world else until_s
        if self.now_s == float("inf"):
            raise Stalled("all coroutines wait for something that will never happen")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time starts at 0 and is that of the world."""

    def __init__(self) -> None:
        self._no_files = _NoFiles()
        super().__init__(self._no_files)
        # Timers due within a microsecond of one another need not be told apart.
        self._clock_resolution = 1e-9

    def time(self) -> float:
        """Seconds."""
        return self._no_files.now_s

    def live_in(self, world: World | None) -> None:
        """Let this world play while coroutines wait; without one, time jumps to the next timer."""
        self._no_files.world = world


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, Result]]) -> Result:
    """Run ``main`` to its end on a loop of its own, then close the loop.

    What is still under way then, as after an interrupt, is cancelled and ends before the loop does.

    Raises:
        Stalled: it can never end.
    """
    loop = VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main(loop))
    finally:
        try:
            _cancel_all(loop)
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _cancel_all(loop: VirtualLoop) -> None:
    """As ``asyncio.run`` does."""
    loop.live_in(None)  # an interrupt may have left the world in the middle of a step
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
