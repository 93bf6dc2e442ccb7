"""Moves a unit when sidecars predict that both classes together fare better for it.

The price of a split is what its queues would meet under it (``pricing.py``). A move must gain more
than it costs, and must seem right several times in a row: forecasts of a few seconds hold little.
Long units take short requests, too (``regimes.py``): the fewer of them there are, the more long
requests are confined. At first all are long, which is as if there were no pools, and so they are
again when there are no long requests any more: confining them has to be worth what it costs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from global_scheduler.pools.base import (
    Controller,
    Demand,
    Move,
    PoolSituation,
    SplitPrice,
    least_busy,
)

LATENESS_WEIGHT = 0.5
"""Of a request whose TTFT uses up its whole goal, in missed goals."""
DRAIN_WEIGHT_PER_S = 0.01


@dataclass(frozen=True, slots=True)
class PredictiveLimits:
    """When a gain is enough."""

    move_cost: float = 2.0
    """In missed goals: what a move must gain at least."""
    gain_share: float = 0.1
    """And this share of the present price."""
    patience: int = 2
    """Decisions in a row that must want a move in the same direction."""
    cooldown_s: float = 2.0
    min_long: int = 1


class Predictive:
    """Prices every split; does as ``fallback`` when sidecars cannot be asked."""

    name = "predictive"
    needs_prices = True

    def __init__(self, limits: PredictiveLimits, fallback: Controller) -> None:
        self._limits = limits
        self._fallback = fallback
        self._moved_s = float("-inf")
        self._wanted = 0
        """By how many the number of long units should change, and how often that was found."""
        self._times = 0

    def decide(self, situation: PoolSituation, now_s: float) -> Move | None:
        """One unit towards the cheapest split."""
        demand, num_long = situation.demand, len(situation.of("long"))
        num_units = len(situation.units)
        if demand.prices is None:
            change, reason = self._without_prices(demand, num_long, num_units)
        elif num_long in demand.prices:
            change, reason = self._by_price(demand.prices, num_long)
        else:
            return self._fall_back(situation, now_s)
        self._times = self._times + 1 if change == self._wanted else 1
        self._wanted = change
        is_cooling = now_s - self._moved_s < self._limits.cooldown_s
        if change == 0 or self._times < self._limits.patience or is_cooling:
            return None
        self._moved_s, self._times = now_s, 0
        if change > 0:
            return Move(least_busy(situation.of("short")).name, "long", reason)
        return Move(least_busy(situation.of("long")).name, "short", reason)

    def _without_prices(self, demand: Demand, num_long: int, num_units: int) -> tuple[int, str]:
        """1 if long requests are confined though there are none."""
        if demand.queue_long or demand.num_expected_long or num_long >= num_units:
            return 0, ""
        return 1, "no long request waits or is expected"

    def _by_price(self, prices: Mapping[int, SplitPrice], num_long: int) -> tuple[int, str]:
        """-1, 0 or 1, and why."""
        limits, present = self._limits, score(prices[num_long])
        allowed = [number for number in prices if number >= limits.min_long]
        best = min(
            allowed,
            key=lambda number: (score(prices[number]), abs(number - num_long)),
            default=num_long,
        )
        cost = score(prices[best])
        if best == num_long or present - cost <= max(limits.move_cost, limits.gain_share * present):
            return 0, ""
        reason = f"{best} long units would cost {cost:.1f}, {num_long} {present:.1f}"
        return (1 if best > num_long else -1), reason

    def _fall_back(self, situation: PoolSituation, now_s: float) -> Move | None:
        self._times = 0
        move = self._fallback.decide(situation, now_s)
        if move is None:
            return None
        self._moved_s = now_s
        return replace(move, reason=f"no prices, as {self._fallback.name}: {move.reason}")


def score(price: SplitPrice) -> float:
    """A split's price as one number, in missed goals."""
    missed = price.num_missed_short + price.num_missed_long
    return missed + LATENESS_WEIGHT * price.lateness + DRAIN_WEIGHT_PER_S * price.drain_s
