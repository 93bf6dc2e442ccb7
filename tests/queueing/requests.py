"""Waiting requests and units with room, in few words."""

from __future__ import annotations

from typing import Any

from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.base import QueueView
from global_scheduler.queueing.holding import Holding
from global_scheduler.queueing.tickets import Room
from global_scheduler.queueing.waiting import RequestClass, Waiting

MODEL = "model"


def request(name: str, arrived_s: float = 0.0, **fields: Any) -> Waiting:
    """One of 100 prompt and 200 expected output tokens, unless told otherwise."""
    known: dict[str, Any] = {"num_prompt_tokens": 100, "expected_output_tokens": 200.0, **fields}
    known.setdefault("model", MODEL)
    return Waiting(request_id=name, arrived_s=arrived_s, **known)


def room(
    unit: str,
    pool: RequestClass | None = None,
    *,
    limit: int = 1,
    active: int = 0,
    idle_s: float = 0.0,
    models: tuple[str, ...] = (MODEL,),
) -> Room:
    """A unit with one place."""
    return Room(unit, models, pool, limit, active, idle_s)


def holding(
    order: str = "fifo",
    *,
    max_requests: int = 100,
    max_age_s: float = 60.0,
    max_overtakes: int = 10,
) -> Holding:
    """Empty queues."""
    return Holding(
        ORDERS[order],
        max_requests=max_requests,
        max_age_s=max_age_s,
        max_overtakes=max_overtakes,
    )


def view(now_s: float = 0.0, load: float = 0.5) -> QueueView:
    """A moment."""
    return QueueView(now_s=now_s, load=load)


def never(unit: Room) -> bool:
    """No stealing."""
    return False


def always(unit: Room) -> bool:
    """Stealing whenever there is room."""
    return True
