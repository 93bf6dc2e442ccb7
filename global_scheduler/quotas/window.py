"""The sliding minute in which uses are counted. Pure.

Uses are counted in slots of five seconds. A use counts until its slot is twelve slots old, that is
for 60 to 65 seconds: so within no 60 seconds a key uses more than its quota, at any moment they
begin, and what a request has really used can be put down in the slot that it was admitted in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SLOT_S = 5
NUM_SLOTS = 60 // SLOT_S + 1
"""Slots that count: those of a minute, and the present one."""
LONGEST_S = NUM_SLOTS * SLOT_S


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one key; None is no limit."""

    requests_per_minute: int | None
    tokens_per_minute: int | None


@dataclass(frozen=True, slots=True)
class Slot:
    """What was used within one slot; ``index`` is UNIX seconds over ``SLOT_S``."""

    index: int
    num_requests: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has used within the window."""

    now_s: float
    """UNIX seconds, on the store's clock."""
    slots: Sequence[Slot]
    """Only those that count, oldest first."""

    @property
    def num_requests(self) -> int:
        """Requests that count."""
        return sum(slot.num_requests for slot in self.slots)

    @property
    def num_tokens(self) -> int:
        """Tokens that count, those reserved for requests under way included."""
        return sum(slot.num_tokens for slot in self.slots)


def slot_at(now_s: float) -> int:
    """The present slot."""
    return int(now_s // SLOT_S)


def fits(quota: Quota, usage: Usage, num_tokens: int) -> bool:
    """Whether one more request of so many tokens stays within the quota."""
    return (
        quota.requests_per_minute is None or usage.num_requests + 1 <= quota.requests_per_minute
    ) and (
        quota.tokens_per_minute is None or usage.num_tokens + num_tokens <= quota.tokens_per_minute
    )


def retry_after_s(quota: Quota, usage: Usage, num_tokens: int) -> float:
    """Until the request would fit if nothing else came; a whole window if it never does."""
    for position, slot in enumerate(usage.slots, 1):
        if fits(quota, Usage(usage.now_s, usage.slots[position:]), num_tokens):
            return _ends_s(slot) - usage.now_s
    return LONGEST_S


def reset_s(usage: Usage, *, of_tokens: bool) -> float:
    """Until nothing of what was used counts any more."""
    used = [slot for slot in usage.slots if (slot.num_tokens if of_tokens else slot.num_requests)]
    return max(0.0, _ends_s(used[-1]) - usage.now_s) if used else 0.0


def _ends_s(slot: Slot) -> float:
    """When a slot stops to count."""
    return float((slot.index + NUM_SLOTS) * SLOT_S)
