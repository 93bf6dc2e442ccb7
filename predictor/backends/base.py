"""The contract of every what-if backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from predictor.overlay import Population, SimulatedSequence
from wire.snapshot import EngineLimits


@dataclass(slots=True)
class Answer:
    """What a request would meet; seconds from the population's ``now``.

    A value that nothing changes; freezing it would double the time of the smallest what-ifs.
    """

    queue_s: float
    """Until it is first scheduled."""
    ttft_s: float
    tpot_s: float
    """Mean time of an output token after the first; 0 when there is only one."""
    e2e_s: float
    added_delay_others_s: float
    """How much later the requests already there end because of this one, summed up."""
    num_preempted: int
    """Preemptions of any sequence before the request ended."""
    num_own_preemptions: int = 0
    max_added_delay_s: float = 0.0
    """The most that one of the others ends later."""
    added_gap_s: float = 0.0
    """How much longer the longest step becomes in which a sequence decodes."""
    num_slo_broken: int = 0
    """Others that would miss a goal with the request and meet it without."""
    e2e_p50_s: float | None = None
    """A quantile where the output's length was given by quantiles; None otherwise."""
    e2e_p90_s: float | None = None


NO_LATENCIES = Answer(
    queue_s=0.0, ttft_s=0.0, tpot_s=0.0, e2e_s=0.0, added_delay_others_s=0.0, num_preempted=0
)
"""Where nothing was simulated."""


@dataclass(frozen=True, slots=True)
class BacklogAnswer:
    """How a unit would work off a backlog; seconds from the population's ``now``."""

    requests: tuple[Answer, ...]
    """In the order in which they came. What each costs others is left at 0; preemptions are
    those of the whole backlog."""
    drain_s: float
    """Until all, the backlog included, have ended."""
    added_delay_others_s: float
    num_slo_broken: int


class Backend(Protocol):
    """Plays an engine forward. Pure: the same input gives the same answer. Not thread-safe."""

    name: str
    is_quick: bool
    """Whether an answer takes so little time that an event loop need not be spared it."""

    def warm_up(self, limits: EngineLimits) -> None:
        """Do once what need not be done at the first question about such an engine."""

    def predict(
        self,
        population: Population,
        newcomers: Sequence[SimulatedSequence],
        *,
        cost_to_others: bool = True,
    ) -> Iterator[Answer]:
        """Answer for each newcomer, one by one, as if it alone joined the population.

        Without ``cost_to_others`` the delay added to others is left at 0, which costs less.

        Raises:
            SimulationFailed: the backend cannot play this population to an end.
        """

    def drain(
        self,
        population: Population,
        backlog: Sequence[SimulatedSequence],
        max_num_seqs: int | None = None,
    ) -> BacklogAnswer:
        """What if all of the backlog came now, in its order?

        ``max_num_seqs`` is a lower limit of running sequences than the engine's own.

        Raises:
            SimulationFailed: the backend cannot play this to an end, or plays no backlogs.
        """
