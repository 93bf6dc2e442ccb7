"""What is known of a request that waits for a unit."""

from __future__ import annotations

from typing import Literal

import msgspec

RequestClass = Literal["short", "long"]
CLASSES: tuple[RequestClass, ...] = ("short", "long")


class Waiting(msgspec.Struct, frozen=True):
    """One request. Times are on the scheduler's clock."""

    request_id: str
    model: str
    arrived_s: float
    num_prompt_tokens: int
    expected_output_tokens: float
    importance: int = 0
    """Higher is more important; below 0 the request may be refused when goals cannot be met."""
    user: str = ""
    ttft_goal_s: float | None = None
    tpot_goal_s: float | None = None
    tried: frozenset[str] = frozenset()
    """Units that have failed it."""
    not_before_s: float = float("-inf")
    """Until then it is not worth looking for a unit."""

    @property
    def size(self) -> float:
        """Prompt tokens and expected output tokens: what classes are told apart by."""
        return self.num_prompt_tokens + self.expected_output_tokens

    @property
    def has_goals(self) -> bool:
        """For its first token or those after it."""
        return self.ttft_goal_s is not None or self.tpot_goal_s is not None

    @property
    def deadline_s(self) -> float:
        """For its first token; infinite without a goal."""
        return float("inf") if self.ttft_goal_s is None else self.arrived_s + self.ttft_goal_s
