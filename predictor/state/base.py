"""The contract of every source of an engine's state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot


class StateSource(Protocol):
    """Reads one engine's state."""

    @property
    def name(self) -> StateSourceName:
        """What every answer calls this source."""

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """The engine's state now.

        Args:
            sent: what the asking gateway has in flight on the engine; None if it keeps no account.

        Raises:
            StateUnavailable: it cannot be read at the moment; the subclass and message say why.
        """

    async def close(self) -> None:
        """Give back files and connections; reading again afterwards is an error."""
