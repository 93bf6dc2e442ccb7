"""Most urgent first: least slack for each second of work (control-plane seed, ``SLOAwarePolicy``).

A goal that is missed already loses nothing by waiting: such requests come after those that can
still be in time, and before those without a goal.
"""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank, service_s, slack_s
from global_scheduler.queueing.waiting import Waiting

IN_TIME, LATE, WITHOUT_GOAL = 0.0, 1.0, 2.0


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """Slack over expected time on a unit."""
    if waiting.ttft_goal_s is None:
        return (WITHOUT_GOAL, 0.0)
    slack = slack_s(waiting, view)
    if slack < 0:
        return (LATE, waiting.deadline_s)
    return (IN_TIME, slack / max(service_s(waiting, view.rates), 1e-3))
