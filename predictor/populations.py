"""Keeps the population that the last question started from.

A gateway asks far more often than its engine steps, and laying its list over a snapshot costs more
than the what-if itself. So as long as neither has changed, questions share one population, and with
it whatever a backend has derived from its sequences.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from predictor.overlay import Population, build_population
from predictor.questions import check_sent
from predictor.state.metrics import name_sequences
from predictor.state.select import State
from wire.prediction import SentRequest
from wire.snapshot import EngineSnapshot

MAX_REUSE_S = 0.05
"""The ages of what was sent grow while nothing else changes."""

_facts = operator.attrgetter(
    *("request_id", "num_prompt_tokens", "expected_output_tokens", "has_first_token", "priority"),
    *("max_tokens", "num_output_tokens"),
)
"""What tells lists apart. Ages differ in each question; goals and quantiles of a request are given
once, when it is sent."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A population and what every answer says of it."""

    population: Population
    kv_blocks_wanted: int
    num_unprocessed_tokens: int


class Populations:
    """What questions about one engine start from."""

    def __init__(self, default_output_tokens: float, clock: Callable[[], float]) -> None:
        """``default_output_tokens`` is expected of unknown requests; UNIX seconds."""
        self._default_output_tokens = default_output_tokens
        self._clock = clock
        self._snapshot: EngineSnapshot | None = None
        self._facts: list[tuple[object, ...]] = []
        self._built_at = 0.0
        self._standing: Standing | None = None

    def find(self, state: State, sent: Sequence[SentRequest]) -> Standing:
        """The engine's sequences with what was sent laid over them; its ``now`` is now.

        The tuples of sequences are the same objects while nothing has changed.

        Raises:
            InvalidQuestion: something in ``sent`` cannot be.
        """
        now = self._clock()
        facts = list(map(_facts, sent))
        last = self._standing
        if (
            last is not None
            and state.snapshot is self._snapshot
            and 0 <= now - self._built_at < MAX_REUSE_S
            and facts == self._facts
        ):
            population = replace(last.population, now=now)
            return Standing(population, last.kv_blocks_wanted, last.num_unprocessed_tokens)
        check_sent(sent)
        self._snapshot, self._facts, self._built_at = state.snapshot, facts, now
        self._standing = self._build(state, sent, now)
        return self._standing

    def _build(self, state: State, sent: Sequence[SentRequest], now: float) -> Standing:
        snapshot = state.snapshot
        if state.source == "metrics":
            snapshot = name_sequences(snapshot, sent)
        population = build_population(snapshot, sent, now, self._default_output_tokens)
        return Standing(population, population.kv_blocks_wanted, population.num_unprocessed_tokens)
