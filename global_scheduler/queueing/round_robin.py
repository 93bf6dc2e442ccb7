"""Users take turns: who was served longest ago comes first (scheduling chapter, 7.5.3)."""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """Users take turns: who was served longest ago comes first (scheduling chapter, 7.5.3)."""
    return (view.last_served.get(waiting.user, -1),)
