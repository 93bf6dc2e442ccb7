"""The contract of a policy: a pure function from a request and its candidates to a choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from wire.prediction import Prediction

Needs = Literal["nothing", "state", "simulation", "costs"]
"""What a policy wants from the sidecars: no call, the state fields, a what-if, or one that also
tells what the requests already there would suffer."""
FIRST_PREFILL_TOKENS_PER_S = 5_000.0
"""Taken for a unit's prefill rate until it has been seen."""


class RoutedRequest(msgspec.Struct, frozen=True):
    """What a policy may know of a request."""

    request_id: str
    num_prompt_tokens: int
    expected_output_tokens: float
    user: str = ""
    """Who asks: the body's ``user`` or the API key; empty if nobody says."""
    session_id: str = ""
    """``x-session-id``: requests that belong together; empty if nobody says."""
    opening: str = ""
    """What the prompt begins with, or a digest of it: the same in every turn of a conversation."""


class Candidate(msgspec.Struct, frozen=True):
    """One eligible unit at the moment of the decision."""

    unit: str
    prediction: Prediction | None
    """The sidecar's answer, already corrected for what was sent since; None when there was none."""
    num_outstanding: int
    """Requests of this gateway in flight on the unit."""
    num_outstanding_tokens: int
    """Their prompt tokens and expected output tokens."""
    idle_s: float = 0.0
    """Since this gateway last sent a request to the unit; infinite if it never has."""
    concurrency_limit: int | None = None
    """Requests that the unit is given at a time; None is no limit."""
    num_cached_tokens: int = 0
    """Prompt tokens of the request that the unit's prefix cache probably holds."""
    num_uncached_tokens_in_flight: int = 0
    """Prompt tokens that it still has to compute for requests without a first token."""
    prefill_tokens_per_s: float = FIRST_PREFILL_TOKENS_PER_S
    """At its best."""

    @property
    def load(self) -> float:
        """Requests in flight over the unit's limit; their number where there is none."""
        return self.num_outstanding / max(1, self.concurrency_limit or 1)

    @property
    def is_full(self) -> bool:
        """Whether it has as many requests as it may."""
        return self.concurrency_limit is not None and self.num_outstanding >= self.concurrency_limit


@dataclass(frozen=True, slots=True)
class Choice:
    """The unit chosen, and which fallback was used if predictions were missing."""

    unit: str
    fallback: str | None = None
    is_exploration: bool = False
    """Not the best by its predictions, but one whose predictions want to be checked."""
    reason: str = field(default="", compare=False)
    """Why, in a word or two, where the policy's name does not say it."""


ChooseFunction = Callable[[RoutedRequest, Sequence[Candidate], int, random.Random], Choice]
"""``choose(request, candidates, turn, rng)``: ``candidates`` is never empty and is sorted by unit
name; ``turn`` counts the decisions made so far; ``rng`` is the only source of chance."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A named policy and what it needs to be asked beforehand."""

    name: str
    needs: Needs
    choose: ChooseFunction
