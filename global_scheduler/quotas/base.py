"""What a store of quotas does. Gateways that use one store share their keys' quotas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from global_scheduler.quotas.window import Quota, Usage

WhenUnknown = Literal["open", "closed"]
"""What becomes of requests while the store does not answer: admitted uncounted, or refused."""


class StoreFailed(Exception):
    """The store is away or broken; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a request was counted, and the key's usage after that."""

    granted: bool
    usage: Usage


class Store(Protocol):
    """Counts uses by key. Every method may raise ``StoreFailed``; none blocks the event loop."""

    name: str
    """What kind it is."""

    async def reserve(self, key: str, quota: Quota, num_tokens: int) -> Judgement:
        """Count a request of so many tokens in the present slot, if it fits; in one step."""

    async def settle(self, key: str, slot: int, num_more_tokens: int) -> None:
        """Correct the tokens of a slot; below 0 gives back. A slot that is over is left alone."""

    async def usage(self) -> dict[str, Usage]:
        """Of every key that has used anything within the window."""

    async def close(self) -> None:
        """Give connections back."""
