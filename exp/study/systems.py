"""The schedulers under test, by name: what of the gateway's settings makes each of them.

All are the same gateway. Baselines send each request on as soon as it comes, as the routers do that
they stand for; only AdaSplit and Astrolabe hold requests back.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from exp.study.case import LengthBelief
from exp.study.errors import PlanError
from exp.study.plan import System
from global_scheduler.pools.qhap import QhapLimits

AT_ONCE = {
    "pools": "none",
    "stealing": "off",
    "worker_concurrency_limit": "none",
    "hold_above_ms": "never",
}
"""No pools and nothing held back, so that there is no queue in the gateway."""
DEFAULTS: dict[str, str] = {}
"""Astrolabe is what the gateway is without any setting."""
ADASPLIT_UNITS = 4
"""The fleet that AdaSplit's numbers were given for."""
OURS = "astrolabe"
ORACLE = "astrolabe_oracle"


def _baseline(name: str, label: str, policy: str) -> System:
    return System(name=name, label=label, gateway={"policy": policy, **AT_ONCE})


_ALL = (
    _baseline("random", "random", "random"),
    _baseline("round_robin", "round robin", "round_robin"),
    _baseline("least_outstanding", "least outstanding", "least_outstanding"),
    _baseline("power_of_two", "power of two", "power_of_two"),
    _baseline("token_load", "token load", "token_load"),
    _baseline("prefix_affinity", "prefix affinity", "locality"),
    _baseline("llumnix_minus", "Llumnix-", "min_llumnix_load"),
    msgspec.structs.replace(
        _baseline("llumnix_migration", "Llumnix", "min_llumnix_load"), migration="llumnix"
    ),
    _baseline("block", "Block", "min_new_request_latency"),
    System(
        name="adasplit",
        label="AdaSplit, numbers for 4 units",
        gateway={
            "policy": "least_outstanding",
            "pools": "qhap",
            "stealing": "rasp",
            # AdaSplit's 8 is where its units, with a 70B model, were saturated. Of 8, 16, 24, 32
            # and 48 this one gave the least TTFT on A30s with a 7B model (12 of them, mixed, 20/s).
            "worker_concurrency_limit": "24",
            "max_queued_requests": "100000",
        },
    ),
    System(name=OURS, label="{system}", gateway=DEFAULTS),
    System(
        name=ORACLE,
        label="{system}, lengths known",
        gateway=DEFAULTS,
        lengths=LengthBelief(kind="oracle"),
    ),
)
SYSTEMS = {system.name: system for system in _ALL}
"""All, by name. Llumnix moves running requests between units, Llumnix- does without. Block is the
predictive scheduler of Astrolabe's paper: the least latency of the newcomer."""
BASELINES = (
    "random",
    "round_robin",
    "least_outstanding",
    "power_of_two",
    "token_load",
    "prefix_affinity",
    "llumnix_minus",
    "block",
)
"""Those that need no pools and no migration."""


def systems(names: Iterable[str]) -> tuple[System, ...]:
    """By name.

    Raises:
        PlanError: one is unknown; the message lists those that are known.
    """
    found = []
    for name in names:
        if name not in SYSTEMS:
            raise PlanError(f"unknown system {name!r}; known are {', '.join(SYSTEMS)}")
        found.append(SYSTEMS[name])
    return tuple(found)


def variant(
    of: str,
    name: str,
    label: str,
    gateway: dict[str, str] | None = None,
    **variables: float,
) -> System:
    """A known system with other settings, under another name."""
    system = SYSTEMS[of]
    return msgspec.structs.replace(
        system,
        name=name,
        label=label,
        gateway={**system.gateway, **(gateway or {})},
        variables=variables,
    )


def scaled_adasplit(num_units: int) -> System:
    """AdaSplit on so many units, as its numbers for four mean it for each unit.

    Queues may be longer where more units empty them, the same share of the fleet stays short, and
    the same share may change sides within a second. One unit stays long, which AdaSplit does not
    ask for: without any, a long request waits until ten others do. Of 16, 18, 20, 22, 24, 32 and
    48 requests at a time, 20 gave it the least mean E2E where ``adasplit`` was given its 24.
    """
    limits, scale = QhapLimits(), num_units / ADASPLIT_UNITS
    return variant(
        "adasplit",
        "adasplit_scaled",
        f"AdaSplit, scaled to {num_units} units",
        {
            "qhap_scale_up_above": f"{limits.scale_up_above * scale:.0f}",
            "qhap_scale_down_below": f"{limits.scale_down_below * scale:.0f}",
            "qhap_min_short": f"{max(1, limits.min_short * scale):.0f}",
            "qhap_min_long": "1",
            "worker_concurrency_limit": "20",
            "qhap_cooldown_s": f"{limits.cooldown_s / scale:.3g}",
        },
    )
