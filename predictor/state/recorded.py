"""A snapshot that was recorded, in place of a live engine."""

from __future__ import annotations

from collections.abc import Sequence

from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot


class RecordedStateSource:
    """Always reads the same snapshot."""

    def __init__(self, snapshot: EngineSnapshot) -> None:
        self._snapshot = snapshot

    @property
    def name(self) -> StateSourceName:
        """Always ``plugin``, which recorded it."""
        return "plugin"

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """The snapshot."""
        return self._snapshot

    async def close(self) -> None:
        """Nothing is held."""
