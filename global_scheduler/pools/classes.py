"""Which requests are long, by a threshold that may be learnt."""

from __future__ import annotations

from collections.abc import Mapping

from global_scheduler.pools.base import SplitPrice
from global_scheduler.pools.predictive import score
from global_scheduler.queueing.waiting import RequestClass, Waiting

THRESHOLD_TOKENS = 1_000.0
"""The default, of prompt and expected output. The control-plane seed splits prompts at 800."""
STEPS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Thresholds that are compared with the present one, as multiples of it."""
LEAST_GAIN = 2.0
"""Missed goals that a new threshold must save."""
FARTHEST = 4.0
"""How many times larger or smaller than at first a threshold may become."""


class Classifier:
    """Tells classes apart."""

    def __init__(self, threshold_tokens: float = THRESHOLD_TOKENS) -> None:
        self.set(threshold_tokens)

    def set(self, threshold_tokens: float) -> None:
        """Start from another threshold."""
        self.threshold_tokens = self._first = threshold_tokens

    def class_of(self, waiting: Waiting) -> RequestClass:
        """Long from the threshold on."""
        return class_by(self.threshold_tokens, waiting)

    def alternatives(self) -> list[float]:
        """Thresholds worth pricing, the present one among them."""
        candidates = (self.threshold_tokens * step for step in STEPS)
        return [v for v in candidates if self._first / FARTHEST <= v <= self._first * FARTHEST]

    def learn(self, prices: Mapping[float, SplitPrice]) -> bool:
        """Take the threshold under which the fewest goals are missed; True if it has changed."""
        if self.threshold_tokens not in prices:
            return False
        best = min(prices, key=lambda value: (score(prices[value]), value))
        gain = score(prices[self.threshold_tokens]) - score(prices[best])
        if best == self.threshold_tokens or gain < LEAST_GAIN:
            return False
        self.threshold_tokens = best
        return True


def class_by(threshold_tokens: float, waiting: Waiting) -> RequestClass:
    """The class of a request under some threshold."""
    return "long" if waiting.size >= threshold_tokens else "short"
