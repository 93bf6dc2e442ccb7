"""The engines of a fleet in simulated time, step by step by the rules of vLLM V1's scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from predictor.step_time.table import StepTable
from wire.snapshot import EngineLimits

FIRST_TOKEN = 0
END = 1


class EngineSpec(NamedTuple):
    """One unit's engine as it really is."""

    limits: EngineLimits
    table: StepTable
    """True mean step times."""
    noise: float
    """Standard deviation of a step's duration, as a share of it."""
    speed: float = 1.0
    """Divides step times."""


class EngineRequest(NamedTuple):
    """A request as it reaches an engine."""

    index: int
    """Its number, from 0, which no other request in the fleet has."""
    num_prompt_tokens: int
    output_length: int
    """Output tokens up to and including the stop token; nobody but the engine knows it."""
    max_tokens: int
    priority: int
    block_hashes: NDArray[np.int64]
    """Of the full blocks of prompt and answer, at least 0 each; may be shorter or empty: blocks
    without one match nobody else's."""


class MovedSequence(NamedTuple):
    """A request that has left an engine with what was computed for it."""

    request: EngineRequest
    num_output_tokens: int
    num_computed_tokens: int
    """Tokens whose KV travels with it."""
    num_cached_tokens: int
    num_preemptions: int


class EngineEvent(NamedTuple):
    """What a client of an engine would notice."""

    kind: int
    """FIRST_TOKEN or END. Who ends with the first token has both events."""
    unit: int
    index: int
    time_s: float
    num_output_tokens: int
    num_cached_tokens: int
    """Prompt tokens found in the prefix cache when it was first admitted."""
    num_preemptions: int
    ended_by_length: bool


class Engines:
    """All engines of a fleet. Deterministic: the same calls and seed give the same events."""

    now_s: float

    def __init__(self, specs: Sequence[EngineSpec], *, seed: int) -> None:
        """Time starts at 0 and all engines are idle.

        Raises:
            ValueError: an engine that the twin cannot play.
        """
        raise NotImplementedError

    def add(self, unit: int, request: EngineRequest) -> None:
        """A request reaches an engine now, which sees it at its next step; an idle one at once.

        Raises:
            EngineDown: the unit has failed.
            ValueError: the index is in use, or the request could never run here.
        """
        raise NotImplementedError

    def abort(self, unit: int, index: int) -> None:
        """Drop a request at the end of the step under way; no event of it comes any more.

        One that is not there (any more) is ignored.
        """
        raise NotImplementedError

    def fail(self, unit: int) -> list[int]:
        """The engine dies; the indices of the requests that it held, as they arrived."""
        raise NotImplementedError

    def recover(self, unit: int) -> None:
        """The engine is back, empty and with a cold cache."""
        raise NotImplementedError

    def take(self, unit: int, index: int) -> MovedSequence:
        """Let a request leave the engine at once, with what has been computed up to now.

        Raises:
            KeyError: it is not there.
        """
        raise NotImplementedError

    def put(self, unit: int, moved: MovedSequence) -> None:
        """A request arrives with its KV: it waits at the queue's front for blocks and a seat, and
        goes on without computing anything anew.

        Raises:
            EngineDown, ValueError: as ``add``.
        """
        raise NotImplementedError

    def advance(self, until_s: float) -> list[EngineEvent]:
        """Play up to the first step end with events, which are returned, or to ``until_s``.

        ``now_s`` is then that moment. With an infinite ``until_s`` nothing happens when all are
        idle.
        """
        raise NotImplementedError
