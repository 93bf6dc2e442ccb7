"""What requests have met, on its way to the sidecars that predicted it.

Outcomes travel with the next question to their unit, so they cost no calls of their own. They wait
until a call that carried them was answered; of two calls at a time each carries its own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence

from global_scheduler.metrics import GatewayMetrics
from wire.prediction import EndedRequest

MOST_WAITING = 1_000
"""Per unit; the oldest fall out. A sidecar that is away so long has nothing to compare with."""
MOST_IN_A_CALL = 100
"""About 10 kB; the rest goes along with the calls that follow."""


class Outcomes:
    """Outcomes that no sidecar has taken yet, by the unit's name."""

    def __init__(self, metrics: GatewayMetrics) -> None:
        self._metrics = metrics
        self._waiting: defaultdict[str, deque[EndedRequest]] = defaultdict(deque)

    def add(self, unit: str, ended: EndedRequest) -> None:
        """Keep an outcome for the unit's sidecar."""
        self._waiting[unit].append(ended)
        self._drop_oldest(unit)

    def take(self, unit: str) -> list[EndedRequest]:
        """The oldest ones, for a call."""
        waiting = self._waiting[unit]
        return [waiting.popleft() for _ in range(min(len(waiting), MOST_IN_A_CALL))]

    def give_back(self, unit: str, ended: Sequence[EndedRequest]) -> None:
        """The call that carried these was not answered."""
        self._waiting[unit].extendleft(reversed(ended))
        self._drop_oldest(unit)

    def _drop_oldest(self, unit: str) -> None:
        waiting = self._waiting[unit]
        while len(waiting) > MOST_WAITING:
            waiting.popleft()
            self._metrics.outcome_dropped(unit)
