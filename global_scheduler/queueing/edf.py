"""Earliest deadline first; requests without a goal come last."""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank
from global_scheduler.queueing.waiting import Waiting


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """Earliest deadline first; requests without a goal come last."""
    return (waiting.deadline_s,)
