"""First in, first out (scheduling chapter, 7.2.1)."""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """First in, first out (scheduling chapter, 7.2.1)."""
    return (0.0,)
