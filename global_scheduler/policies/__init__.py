"""Routing policies, one file each."""

from __future__ import annotations

from global_scheduler.policies import (
    affinity,
    least_outstanding,
    load_balanced,
    locality,
    min_llumnix_load,
    min_new_request_latency,
    min_total_delay,
    min_total_unprocessed_tokens,
    power_of_two,
    random,
    round_robin,
    token_load,
)
from global_scheduler.policies.base import Policy

POLICIES = {
    policy.name: policy
    for policy in (
        Policy("min_total_delay", "costs", min_total_delay.choose),
        Policy("min_new_request_latency", "simulation", min_new_request_latency.choose),
        Policy("min_total_unprocessed_tokens", "state", min_total_unprocessed_tokens.choose),
        Policy("min_llumnix_load", "state", min_llumnix_load.choose),
        Policy("token_load", "nothing", token_load.choose),
        Policy("affinity", "nothing", affinity.choose),
        Policy("locality", "nothing", locality.choose),
        Policy("load_balanced", "nothing", load_balanced.choose),
        Policy("least_outstanding", "nothing", least_outstanding.choose),
        Policy("power_of_two", "nothing", power_of_two.choose),
        Policy("round_robin", "nothing", round_robin.choose),
        Policy("random", "nothing", random.choose),
    )
}
"""Every policy by the name that ``--policy`` and the admin API take."""

__all__ = ["POLICIES", "Policy"]
