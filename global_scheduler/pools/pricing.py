"""What the queues would meet under each split of the units, as their sidecars predict it. Pure.

``upcoming`` is what has to be served soon, ``plan`` shares it out among the units of a split; each
share is a question to one unit's sidecar, and ``price`` adds the answers up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from global_scheduler.pools.base import PooledUnit, SplitPrice
from global_scheduler.queueing.waiting import CLASSES, RequestClass, Waiting

TYPICAL_GOAL_S = 1.0
TYPICAL_TOKENS_PER_S = 1_000.0
"""For the TTFT of requests that name no goal: so long, and as long as so fast a prefill takes."""
MAX_WAITING = 32
"""Requests of a class that are asked about, for each unit: the first ones."""
MAX_EXPECTED = 32
MAX_SPLITS = 16
"""So many or a few less are priced in groups of more units than this."""


@dataclass(frozen=True, slots=True)
class Load:
    """A unit and what it still has to do."""

    unit: PooledUnit
    num_outstanding_tokens: float


Shares = Mapping[str, Sequence[Waiting]]
"""By unit: the requests it would get, first one first."""
ClassOf = Callable[[Waiting], RequestClass]


def upcoming(
    waiting: Sequence[Waiting],
    recent: Sequence[Waiting],
    class_of: ClassOf,
    *,
    horizon_s: float,
    num_units: int,
) -> list[Waiting]:
    """What waits, in the order in which it would leave, then what is expected, by arrival.

    What arrived within the last ``horizon_s`` (``recent``) is expected to arrive again. Both
    arguments are by arrival.
    """
    found: list[Waiting] = []
    for request_class in CLASSES:
        of_class = [one for one in waiting if class_of(one) == request_class]
        found += of_class[: MAX_WAITING * num_units]
    for one in recent[: MAX_EXPECTED * num_units]:
        arrives_s = one.arrived_s + horizon_s
        found.append(replace(one, request_id=f"expected-{one.request_id}", arrived_s=arrives_s))
    return found


def splits_to_price(num_long: int, num_units: int) -> list[int]:
    """The numbers of long units to compare: all that there can be, if they are not too many.

    A unit is asked once for each, so in large groups it is the present one, its neighbours, which
    are what a move leads to, and others at even distances.
    """
    possible = range(1, num_units + 1)
    if num_units <= MAX_SPLITS:
        return list(possible)
    step = -(-num_units // (MAX_SPLITS - 3))
    chosen = {num_long - 1, num_long, num_long + 1, *range(1, num_units, step), num_units}
    return sorted(chosen.intersection(possible))


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
    loads: Sequence[Load], num_long: int, requests: Sequence[Waiting], class_of: ClassOf
) -> Shares:
    """Shares of requests, which are in the order in which they would leave.

    Each goes to the unit with the least to do; long ones to long units only, if there are any.
    """
    pools = split_of([load.unit for load in loads], num_long)
    tokens = {load.unit.name: load.num_outstanding_tokens for load in loads}
    shares: dict[str, list[Waiting]] = {load.unit.name: [] for load in loads}
    for one in requests:
        able = list(pools)
        if class_of(one) == "long":
            able = [unit for unit in able if pools[unit] == "long"] or able
        unit = min(able, key=lambda name: (tokens[name], name))
        shares[unit].append(one)
        tokens[unit] += one.size
    return shares


@dataclass(frozen=True, slots=True)
class ShareForecast:
    """A sidecar's answer to one share."""

    ttft_s: Sequence[float]
    """Of each request, from now, if all of them came now."""
    drain_s: float
    num_slo_broken: int = 0
    """Requests that the unit has already and that would newly miss a goal."""


def price(
    shares: Shares, forecasts: Mapping[str, ShareForecast], class_of: ClassOf, now_s: float
) -> SplitPrice:
    """The sum over units; those that would get nothing need no forecast."""
    missed: dict[RequestClass, int] = {"short": 0, "long": 0}
    lateness = drain_s = 0.0
    for unit, share in shares.items():
        if not share:
            continue
        forecast = forecasts[unit]
        drain_s = max(drain_s, forecast.drain_s)
        missed["short"] += forecast.num_slo_broken
        for one, ttft_s in zip(share, _ttfts_s(share, forecast, now_s), strict=True):
            used = ttft_s / _goal_s(one)
            missed[class_of(one)] += used > 1.0
            lateness += min(1.0, used)
    num_requests = sum(map(len, shares.values()))
    return SplitPrice(num_requests, missed["short"], missed["long"], drain_s, lateness)


def _ttfts_s(share: Sequence[Waiting], forecast: ShareForecast, now_s: float) -> Iterator[float]:
    """Since each request's arrival, which may be still to come.

    The forecast has all of them come at once. How much later a request gets its first token than
    the one before it is the work it adds; it can begin when both it and its turn have come.
    """
    predicted_s = free_s = 0.0
    for one, ttft_s in zip(share, forecast.ttft_s, strict=True):
        work_s = max(0.0, ttft_s - predicted_s)
        predicted_s += work_s
        free_s = max(free_s, one.arrived_s - now_s) + work_s
        yield now_s + free_s - one.arrived_s


def _goal_s(one: Waiting) -> float:
    """Not by class: a threshold must not look better for calling more requests long."""
    return one.ttft_goal_s or TYPICAL_GOAL_S + one.num_prompt_tokens / TYPICAL_TOKENS_PER_S
