"""The contract of every source of an engine's state."""

from __future__ import annotations

from typing import Protocol

from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot


class StateSource(Protocol):
    """Reads one engine's state."""

    @property
    def name(self) -> StateSourceName:
        """What every answer calls this source."""

    async def read(self) -> EngineSnapshot:
        """The engine's state now.

        Raises:
            StateUnavailable: it cannot be read at the moment; the subclass and message say why.
        """

    async def close(self) -> None:
        """Give back files and connections; reading again afterwards is an error."""
