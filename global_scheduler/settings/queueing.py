"""Settings of late binding, the queues and latency goals."""

from __future__ import annotations

from math import isinf
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from pydantic_settings import NoDecode

from global_scheduler.admission import Headroom, Miss
from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.tickets import NO_LIMIT
from global_scheduler.slo import GoalDefaults, parse_goal_defaults
from wire.bounded_numbers import BoundedNumbers

FIRST_LIMIT = 8
"""AdaSplit's; where limits are derived, until the first one is."""
OrderName = Literal[
    "fifo",
    "priority",
    "sjf",
    "srtf",
    "edf",
    "round_robin",
    "cost_optimized",
    "slo_aware",
    "adaptive",
]
ConcurrencyLimit = PositiveInt | Literal["auto", "none"]
HoldAbove = NonNegativeFloat | Literal["never"]


def hold_above_s(hold_above_ms: HoldAbove) -> float:
    return float("inf") if hold_above_ms == "never" else hold_above_ms / 1e3


def hold_above_ms(hold_above_s: float) -> HoldAbove:
    return "never" if isinf(hold_above_s) else hold_above_s * 1e3


class QueueSettings(BoundedNumbers):
    """Where requests wait until a unit has room."""

    worker_concurrency_limit: ConcurrencyLimit = Field(
        default="none",
        description="requests at a time on each unit, more wait in the gateway; auto: the most "
        "with which the TPOT goal is still met; none: --hold-above-ms alone decides. Static and "
        "qhap pools need one, such as AdaSplit's 8. Also taken from WORKER_CONCURRENCY_LIMIT",
    )
    hold_above_ms: HoldAbove = Field(
        default=6_000.0,
        description="a request that is predicted to queue in its engine for longer than this waits "
        "in the gateway, where it can still go elsewhere, be overtaken or be refused",
    )
    queue_order: OrderName = Field(default="fifo", description="which waiting request goes next")
    max_queued_requests: PositiveInt = Field(
        default=1_000, description="of each class; more are answered 429"
    )
    max_queue_age_s: PositiveFloat = Field(
        default=120.0, description="a request that has waited so long is answered 429"
    )
    max_overtakes: PositiveInt = Field(
        default=100,
        description="after so many later requests have gone before it, a request goes next, "
        "whatever the order",
    )
    slo: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="latency goals of requests that name none, as MODEL=TTFT_MS[,TPOT_MS]; a * "
        "stands for all other models and - for no goal; repeat for each model",
    )
    slo_miss: Miss = Field(
        default="shed",
        description="what becomes of a request whose goals no unit is predicted to meet: wait (as "
        "long as it could still be in time), shed (429 if its priority is below --shed-below) or "
        "best_effort",
    )
    shed_below: int = Field(default=0, description="priority below which requests may be shed")
    slo_headroom: Headroom = Field(
        default="policy",
        description="of the units predicted to meet the goals: the policy's choice, or the one "
        "with the least or the most to spare",
    )

    @field_validator("slo", mode="before")
    @classmethod
    def _split_goals(cls, value: object) -> object:
        """Repeated flags arrive joined by commas; a part without ``=`` belongs to the last one."""
        if not isinstance(value, str):
            return value
        goals: list[str] = []
        for part in filter(None, value.split(",")):
            if "=" in part or not goals:
                goals.append(part)
            else:
                goals[-1] += f",{part}"
        return goals

    @field_validator("slo")
    @classmethod
    def _check_goals(cls, value: list[str]) -> list[str]:
        parse_goal_defaults(value)
        return value

    @property
    def goal_defaults(self) -> GoalDefaults:
        """The goals of ``slo``, parsed."""
        return parse_goal_defaults(self.slo)

    @property
    def hold_above_s(self) -> float:
        """The same in seconds; infinite for ``never``."""
        return hold_above_s(self.hold_above_ms)

    @property
    def first_limit(self) -> int:
        """Requests at a time on a unit when the gateway starts."""
        if self.worker_concurrency_limit == "auto":
            return FIRST_LIMIT
        return (
            NO_LIMIT if self.worker_concurrency_limit == "none" else self.worker_concurrency_limit
        )


assert set(OrderName.__args__) == set(ORDERS)  # type: ignore[attr-defined]
