"""The cheapest first, while nobody's goal is at risk (control-plane seed, ``CostOptimizedPolicy``).

What a request costs is the time for which it holds a unit. Cheap ones first lets the most requests
end in the unit time that is paid for. Whose slack has shrunk to ``RISK_S`` goes before all others.
"""

from __future__ import annotations

from global_scheduler.queueing.base import QueueView, Rank, service_s, slack_s
from global_scheduler.queueing.waiting import Waiting

RISK_S = 0.5
AT_RISK, SAFE = 0.0, 1.0


def rank(waiting: Waiting, view: QueueView) -> Rank:
    """Requests at risk by deadline, then the others by expected time on a unit."""
    if 0 <= slack_s(waiting, view) <= RISK_S:
        return (AT_RISK, waiting.deadline_s)
    return (SAFE, service_s(waiting, view.rates))
