"""What the queues would meet under each split of the units, as their sidecars foretell it. Pure.

``plan`` shares out what waits and what is expected to arrive among the units of a split; each share
is a question to one unit's sidecar, and ``price`` adds the answers up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from global_scheduler.pools.base import PooledUnit, SplitPrice
from global_scheduler.queueing.waiting import RequestClass, Waiting

TYPICAL_GOALS_S: Mapping[RequestClass, float] = {"short": 1.0, "long": 10.0}
"""For the TTFT of requests that name no goal."""


@dataclass(frozen=True, slots=True)
class Load:
    """A unit and what it still has to do."""

    unit: PooledUnit
    num_outstanding_tokens: float


Shares = Mapping[str, Sequence[Waiting]]
"""By unit: the requests it would get, first one first."""


def split_of(units: Sequence[PooledUnit], num_long: int) -> dict[str, RequestClass]:
    """Which units would be long if so many were; the fewest and least busy change."""
    by_busyness = sorted(units, key=lambda unit: (unit.active, unit.name))
    now_long = [unit for unit in by_busyness if unit.pool == "long"]
    now_short = [unit for unit in by_busyness if unit.pool == "short"]
    staying = now_long[max(0, len(now_long) - num_long) :]
    joining = now_short[: max(0, num_long - len(now_long))]
    long = {unit.name for unit in (*staying, *joining)}
    return {unit.name: "long" if unit.name in long else "short" for unit in units}


def plan(
    loads: Sequence[Load],
    num_long: int,
    requests: Sequence[Waiting],
    class_of: Callable[[Waiting], RequestClass],
) -> Shares:
    """Shares of requests, which are in the order in which they would leave.

    Each goes to the unit of its pool with the least to do. Requests of a class without a unit come
    after the others' on the units of the other pool, as if stolen.
    """
    pools = split_of([load.unit for load in loads], num_long)
    tokens = {load.unit.name: load.num_outstanding_tokens for load in loads}
    shares: dict[str, list[Waiting]] = {load.unit.name: [] for load in loads}
    own = [one for one in requests if class_of(one) in pools.values()]
    others = [one for one in requests if class_of(one) not in pools.values()]
    for one in (*own, *others):
        able = [unit for unit, pool in pools.items() if pool == class_of(one)] or list(pools)
        unit = min(able, key=lambda name: (tokens[name], name))
        shares[unit].append(one)
        tokens[unit] += one.size
    return shares


@dataclass(frozen=True, slots=True)
class ShareForecast:
    """A sidecar's answer to one share."""

    ttft_s: Sequence[float]
    """Of each request, from now."""
    drain_s: float
    num_slo_broken: int = 0
    """Requests that the unit has already and that would newly miss a goal."""


def price(
    shares: Shares,
    forecasts: Mapping[str, ShareForecast],
    class_of: Callable[[Waiting], RequestClass],
    now_s: float,
) -> SplitPrice:
    """The sum over units; those that would get nothing need no forecast.

    Requests that are expected to arrive have ``arrived_s`` in the future. What the engine has not
    got yet it cannot be late with, so their TTFT is what is left of it then.
    """
    missed: dict[RequestClass, int] = {"short": 0, "long": 0}
    lateness = drain_s = 0.0
    for unit, share in shares.items():
        if not share:
            continue
        forecast = forecasts[unit]
        drain_s = max(drain_s, forecast.drain_s)
        missed["short"] += forecast.num_slo_broken
        for one, ttft_s in zip(share, forecast.ttft_s, strict=True):
            its_class = class_of(one)
            goal_s = one.ttft_goal_s or TYPICAL_GOALS_S[its_class]
            used = max(0.0, now_s + ttft_s - one.arrived_s) / goal_s
            missed[its_class] += used > 1.0
            lateness += min(1.0, used)
    num_requests = sum(map(len, shares.values()))
    return SplitPrice(num_requests, missed["short"], missed["long"], drain_s, lateness)
