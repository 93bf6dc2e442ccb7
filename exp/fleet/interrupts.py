"""Ctrl-C, TERM and HUP: all of them clean up, and none leaves a thing half done."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def interrupt_on_termination() -> None:
    """Let TERM and HUP do what Ctrl-C does, so that all of them clean up. Main thread only."""
    for number in INTERRUPTS:
        signal.signal(number, signal.default_int_handler)


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold back Ctrl-C, TERM and HUP until the block ends; then raise KeyboardInterrupt.

    For what must not be left half done: a process started but not yet recorded. Main thread only.
    """
    caught: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        caught.append(number)

    former = {number: signal.signal(number, remember) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
    if caught:
        raise KeyboardInterrupt
