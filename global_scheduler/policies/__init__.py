"""Routing policies, one file each."""

from __future__ import annotations

from global_scheduler.policies import (
    least_outstanding,
    min_llumnix_load,
    min_new_request_latency,
    min_total_unprocessed_tokens,
    random,
    round_robin,
)
from global_scheduler.policies.base import Policy

POLICIES = {
    policy.name: policy
    for policy in (
        Policy("min_new_request_latency", "simulation", min_new_request_latency.choose),
        Policy("min_total_unprocessed_tokens", "state", min_total_unprocessed_tokens.choose),
        Policy("min_llumnix_load", "state", min_llumnix_load.choose),
        Policy("least_outstanding", "nothing", least_outstanding.choose),
        Policy("round_robin", "nothing", round_robin.choose),
        Policy("random", "nothing", random.choose),
    )
}
"""Every policy by the name that ``--policy`` and the admin API take."""

__all__ = ["POLICIES", "Policy"]
