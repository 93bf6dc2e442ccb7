"""Switching the gateway's rules at random."""

from __future__ import annotations

import random
from typing import get_args

from exp.gateway_admin import Admin
from global_scheduler.admission import Headroom, Miss
from global_scheduler.policies import POLICIES
from global_scheduler.pools.regimes import PoolsName
from global_scheduler.pools.stealing import Stealing
from global_scheduler.queueing import ORDERS


def switch(admin: Admin, rng: random.Random) -> None:
    """Change policy, goals' treatment, pools, stealing, limits and the order of the queues."""
    admin.put(
        "/admin/policy",
        {
            "policy": rng.choice(list(POLICIES)),
            "num_query_predictors": rng.choice((0, 0, 2)),
            "hold_above_ms": rng.choice(("never", 0, 100, 1_000)),
            "slo_miss": rng.choice(get_args(Miss)),
            "slo_headroom": rng.choice(get_args(Headroom)),
        },
    )
    admin.put(
        "/admin/pools",
        {
            "pools": rng.choice(get_args(PoolsName)),
            "stealing": rng.choice(get_args(Stealing)),
            "num_long_units": rng.choice((1, 2)),
            "learn_threshold": rng.random() < 0.5,
            "queue_order": rng.choice(list(ORDERS)),
            "worker_concurrency_limit": rng.choice((2, 8, 8, "none", "auto")),
        },
    )
