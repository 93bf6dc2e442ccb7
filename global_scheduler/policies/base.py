"""The contract of a policy: a pure function from a request and its candidates to a choice."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from wire.prediction import Prediction

Needs = Literal["nothing", "state", "simulation"]
"""What a policy wants from the sidecars: no call, the state fields, or a what-if."""


@dataclass(frozen=True, slots=True)
class RoutedRequest:
    """What a policy may know of a request."""

    request_id: str
    num_prompt_tokens: int
    expected_output_tokens: float


@dataclass(frozen=True, slots=True)
class Candidate:
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


@dataclass(frozen=True, slots=True)
class Choice:
    """The unit chosen, and which fallback was used if predictions were missing."""

    unit: str
    fallback: str | None = None
    is_exploration: bool = False
    """Not the best by its predictions, but one whose predictions want to be checked."""


ChooseFunction = Callable[[RoutedRequest, Sequence[Candidate], int, random.Random], Choice]
"""``choose(request, candidates, turn, rng)``: ``candidates`` is never empty and is sorted by unit
name; ``turn`` counts the decisions made so far; ``rng`` is the only source of chance."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A named policy and what it needs to be asked beforehand."""

    name: str
    needs: Needs
    choose: ChooseFunction
