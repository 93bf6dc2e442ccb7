"""Which requests are long, by a threshold that may be learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from global_scheduler.pools.base import SplitPrice
from global_scheduler.pools.predictive import score
from global_scheduler.queueing.waiting import RequestClass, Waiting

THRESHOLD_TOKENS = 1_000.0
"""The default. Prompt and expected output count alike; the control-plane seed splits prompts at 800."""
STEPS = (0.5, 0.7, 1.0, 1.4, 2.0)
"""Thresholds that are compared with the present one, as multiples of it."""
LEAST_GAIN = 1.0
"""Missed goals that a new threshold must save."""
SMALLEST, LARGEST = 50.0, 200_000.0


@dataclass(slots=True)
class Classifier:
    """Tells classes apart."""

    threshold_tokens: float = THRESHOLD_TOKENS

    def class_of(self, waiting: Waiting) -> RequestClass:
        """Long from the threshold on."""
        return "long" if waiting.size >= self.threshold_tokens else "short"

    def alternatives(self) -> list[float]:
        """Thresholds worth pricing, the present one among them."""
        candidates = (self.threshold_tokens * step for step in STEPS)
        return [value for value in candidates if SMALLEST <= value <= LARGEST]

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
