"""Which source an engine's state is read from: the best that works at the moment."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from predictor.errors import StateUnavailable
from predictor.state.base import StateSource
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""A better source that failed is tried again after this long."""


@dataclass(frozen=True, slots=True)
class State:
    """A snapshot, where it is from, and when it was read."""

    snapshot: EngineSnapshot
    source: StateSourceName
    read_at: float

    @property
    def age_ms(self) -> float:
        """How old the snapshot was when it was read.

        An engine with a batch in flight or with nothing to do writes no newer one.
        """
        return max(0.0, (self.read_at - self.snapshot.time) * 1e3)


class StateSelector:
    """Reads the first source that works, best first."""

    def __init__(self, sources: Sequence[StateSource], clock: Callable[[], float]) -> None:
        """The clock gives UNIX seconds."""
        self._sources = sources
        self._clock = clock
        self._retry_at = [0.0] * len(sources)
        self._last: StateSourceName | None = None

    async def read(self) -> State:
        """The engine's state.

        Raises:
            StateUnavailable: no source works; the message has the reason of each.
        """
        reasons = []
        last = len(self._sources) - 1
        for index, source in enumerate(self._sources):
            # The last resort is always tried: there is nothing to be spared by not asking it.
            if index != last and self._clock() < self._retry_at[index]:
                continue
            try:
                snapshot = await source.read()
            except StateUnavailable as error:
                reasons.append(f"{source.name}: {error}")
                self._retry_at[index] = self._clock() + RETRY_AFTER_S
                continue
            self._note(source.name)
            return State(snapshot, source.name, self._clock())
        self._note(None)
        self._retry_at = [0.0] * len(self._sources)
        raise StateUnavailable("the engine's state cannot be read: " + "; ".join(reasons))

    async def close(self) -> None:
        """Close every source."""
        for source in self._sources:
            await source.close()

    def _note(self, name: StateSourceName | None) -> None:
        """Log changes, not every read."""
        if name != self._last:
            logger.warning("state source: %s (was %s)", name or "none", self._last or "none")
            self._last = name
