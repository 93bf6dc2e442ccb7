"""Moves a unit when sidecars foretell that both classes together fare better for it.

The price of a split is what its queues would meet under it (``pricing.py``). A move must gain more
than it costs, and must seem right ``PATIENCE`` times in a row: forecasts of one second hold little.
"""

from __future__ import annotations

from dataclasses import dataclass

from global_scheduler.pools.base import (
    Controller,
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

    move_cost: float = 1.0
    """In missed goals: what a move must gain at least."""
    gain_share: float = 0.1
    """And this share of the present price."""
    patience: int = 2
    """Decisions in a row that must want the same move."""
    cooldown_s: float = 2.0
    min_short: int = 1
    min_long: int = 0


class Predictive:
    """Prices every split; falls back to ``fallback`` when sidecars cannot be asked."""

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
        num_long = len(situation.of("long"))
        if num_long not in situation.prices:
            return self._fallback.decide(situation, now_s)
        change, reason = self._change(situation, num_long)
        self._times = self._times + 1 if change == self._wanted else 1
        self._wanted = change
        is_cooling = now_s - self._moved_s < self._limits.cooldown_s
        if change == 0 or self._times < self._limits.patience or is_cooling:
            return None
        self._moved_s, self._times = now_s, 0
        if change > 0:
            return Move(least_busy(situation.of("short")).name, "long", reason)
        return Move(least_busy(situation.of("long")).name, "short", reason)

    def _change(self, situation: PoolSituation, num_long: int) -> tuple[int, str]:
        """-1, 0 or 1, and why."""
        limits, prices = self._limits, situation.prices
        allowed = [
            number
            for number in prices
            if limits.min_long <= number <= len(situation.units) - limits.min_short
        ]
        present = score(prices[num_long])
        best = min(allowed, key=lambda number: (score(prices[number]), abs(number - num_long)))
        gain = present - score(prices[best])
        if best == num_long or gain <= max(limits.move_cost, limits.gain_share * present):
            return 0, ""
        reason = f"{best} long units would cost {score(prices[best]):.1f}, {num_long} {present:.1f}"
        return (1 if best > num_long else -1), reason


def score(price: SplitPrice) -> float:
    """A split's price as one number, in missed goals."""
    missed = price.num_missed_short + price.num_missed_long
    return missed + LATENESS_WEIGHT * price.lateness + DRAIN_WEIGHT_PER_S * price.drain_s
