"""What a store of quotas does. Gateways that use one store share their keys' quotas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from global_scheduler.quotas.window import Quota, Usage

WhenUnknown = Literal["open", "closed"]
"""What becomes of requests while the store does not answer: admitted uncounted, or refused."""


class StoreFailed(Exception):
    """The store is away or broken; the message is the reason."""


class StoreLate(StoreFailed):
    """It did not answer in time."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Count a request of so many tokens in the present slot, if it fits."""

    key: str
    quota: Quota
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Settle:
    """Correct the tokens of a slot; below 0 gives back. A slot that is over is left alone."""

    key: str
    slot: int
    num_more_tokens: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a request was counted, and the key's usage after that."""

    granted: bool
    usage: Usage


class Store(Protocol):
    """Counts uses by key. Every method may raise ``StoreFailed``; none blocks the event loop."""

    name: str
    """What kind it is."""

    async def settle(self, corrections: Sequence[Settle]) -> None:
        """Correct what requests have used."""

    async def reserve(self, requests: Sequence[Reserve]) -> list[Judgement]:
        """One after the other, each in one step, whoever else uses the store."""

    async def usage(self) -> dict[str, Usage]:
        """Of every key that has used anything within the window."""

    async def close(self) -> None:
        """Give connections back."""
