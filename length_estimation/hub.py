"""Asks a hub for a name before anything is read: its libraries try for half a minute otherwise."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Literal

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

DEADLINE_S = 10.0
REQUEST_TIMEOUT_S = 5.0
Kind = Literal["model", "dataset"]


class HubError(Exception):
    """A hub is not reached, or does not have what it is asked for; the message names both."""


def check_hub(kind: Kind, name: str, *, deadline_s: float = DEADLINE_S) -> None:
    """See that the hub answers and has a model or data set of that name.

    Raises:
        HubError: it does not within the deadline, or it has none.
    """
    hub = HfApi()
    ask = hub.model_info if kind == "model" else hub.dataset_info
    error = _error_within(deadline_s, lambda: ask(name, timeout=REQUEST_TIMEOUT_S))
    if isinstance(error, HfHubHTTPError | ValueError):  # also for a name that cannot be one
        words = " ".join(str(error).split())
        raise HubError(f"{kind} {name!r} cannot be had of {constants.ENDPOINT}: {words}")
    if error is not None:
        raise HubError(f"{kind} {name!r}: no hub at {constants.ENDPOINT} is reached ({error})")


def _error_within(deadline_s: float, call: Callable[[], object]) -> Exception | None:
    """What a call raises, or that it takes too long: looking up a host's name knows no deadline."""
    ended: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            call()
        except Exception as error:  # of whatever HTTP library the hub's client brings
            ended.put(error)
        else:
            ended.put(None)

    threading.Thread(target=run, daemon=True, name="hub").start()
    try:
        return ended.get(timeout=deadline_s)
    except queue.Empty:
        return TimeoutError(f"no answer in {deadline_s:g} s")
