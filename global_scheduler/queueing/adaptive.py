"""Switches by load: cost while it is low, importance between, goals while it is high.

The bounds are those of the scheduling chapter (7.5.4); the control-plane seed says what matters at
either end (``AdaptivePolicy``).
"""

from __future__ import annotations

from global_scheduler.queueing import cost_optimized, priority, slo_aware
from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting

LOW_LOAD = 0.3
HIGH_LOAD = 0.8


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """As ``cost_optimized``, ``priority`` or ``slo_aware``."""
    if view.load < LOW_LOAD:
        return cost_optimized.rank(waiting, view)
    if view.load > HIGH_LOAD:
        return slo_aware.rank(waiting, view)
    return priority.rank(waiting, view)
