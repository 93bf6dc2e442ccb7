"""The most important first (scheduling chapter, 7.5.1)."""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """The most important first (scheduling chapter, 7.5.1)."""
    return (-float(waiting.importance),)
