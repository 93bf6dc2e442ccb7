"""The contract of an order: a pure function from a waiting request to its rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from global_scheduler.queueing.waiting import Waiting

Rank = tuple[float, ...]
"""The least goes first. Equal ranks go by arrival."""


@dataclass(frozen=True, slots=True)
class Rates:
    """How fast the fleet's units have lately been, for one request at a time."""

    prefill_tokens_per_s: float = 5_000.0
    seconds_per_output_token: float = 0.03


class QueueView(msgspec.Struct, frozen=True):
    """What an order may know beside the request itself."""

    now_s: float
    load: float = 0.0
    """How full the units are, 0 to 1; see ``load.py``. 0 for orders that do not look at it."""
    rates: Rates = Rates()
    last_served: Mapping[str, int] = {}
    """The turn in which each user's last request left the queue; absent: none has."""


@dataclass(frozen=True, slots=True)
class Order:
    """A named order."""

    name: str
    rank: Callable[[Waiting, QueueView], Rank]
    needs_load: bool = False
    """Whether it looks at the view's ``load``, which costs a look at every unit."""
    needs_lengths: bool = False
    """Whether it goes by how long requests should take."""


def service_s(waiting: Waiting, rates: Rates) -> float:
    """How long the request should take on a unit, in seconds: its prompt, then its output."""
    prefill_s = waiting.num_prompt_tokens / rates.prefill_tokens_per_s
    return prefill_s + waiting.expected_output_tokens * rates.seconds_per_output_token


def slack_s(waiting: Waiting, view: QueueView) -> float:
    """How much longer the request may wait and still give its first token in time."""
    prefill_s = waiting.num_prompt_tokens / view.rates.prefill_tokens_per_s
    return waiting.deadline_s - view.now_s - prefill_s
