"""Shortest remaining time first, at the fleet's present speed (scheduling chapter, 7.5.2).

A request that waits has not begun, so all of its work remains; what is weighed anew at each choice
is how long that takes: prompts count by the present speed of prefills, outputs by that of decodes.
"""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank, service_s
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """The least expected time on a unit."""
    return (service_s(waiting, view.rates),)
