"""The contract of every what-if backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from predictor.overlay import Population, SimulatedSequence
from wire.snapshot import EngineLimits


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request would meet; seconds from the population's ``now``."""

    queue_s: float
    """Until it is first scheduled."""
    ttft_s: float
    tpot_s: float
    """Mean time of an output token after the first; 0 when there is only one."""
    e2e_s: float
    added_delay_others_s: float
    """How far the others, summed up, lag behind a run without the request when the request ends.

    What happens to them afterwards is not played, so a delay that shows only later is missing.
    """
    num_preempted: int
    """Preemptions of any sequence before the request ended."""


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
