"""The admin API of pools, stealing, limits and the queues: what is, and changes at run time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter
from pydantic import ConfigDict, NonNegativeInt, PositiveFloat, PositiveInt

from global_scheduler.auto_limits import AutoLimits
from global_scheduler.control_loop import PoolControl
from global_scheduler.errors import Conflict
from global_scheduler.late_binding import LateBinding
from global_scheduler.pools.book import CannotMove
from global_scheduler.pools.predictive import score
from global_scheduler.pools.regimes import PoolsName
from global_scheduler.pools.stealing import Stealing
from global_scheduler.queueing import ORDERS
from global_scheduler.queueing.tickets import NO_LIMIT
from global_scheduler.queueing.waiting import CLASSES, RequestClass
from global_scheduler.settings.queueing import OrderName
from global_scheduler.steal_permits import StealPermits
from global_scheduler.units import UnitRegistry
from wire.bounded_numbers import BoundedNumbers


class PoolsIn(BoundedNumbers):
    """A change of rules; what is absent stays. The names are those of the settings."""

    model_config = ConfigDict(extra="forbid")

    pools: PoolsName | None = None
    stealing: Stealing | None = None
    num_long_units: NonNegativeInt | None = None
    long_threshold_tokens: PositiveFloat | None = None
    learn_threshold: bool | None = None
    queue_order: OrderName | None = None
    worker_concurrency_limit: PositiveInt | Literal["auto", "none"] | None = None
    max_queued_requests: PositiveInt | None = None
    max_queue_age_s: PositiveFloat | None = None
    max_overtakes: PositiveInt | None = None


class PooledUnitIn(BoundedNumbers):
    """A change of one unit; what is absent stays."""

    model_config = ConfigDict(extra="forbid")

    pool: RequestClass | None = None
    concurrency_limit: PositiveInt | Literal["default"] | None = None


class PoolAdmin:
    """Shows and changes the pools of a running gateway."""

    def __init__(
        self,
        units: UnitRegistry,
        late_binding: LateBinding,
        control: PoolControl,
        permits: StealPermits,
        auto_limits: AutoLimits,
        clock: Callable[[], float],
    ) -> None:
        self._units = units
        self._late_binding = late_binding
        self._control = control
        self._permits = permits
        self._auto_limits = auto_limits
        self._clock = clock

    def change(self, body: PoolsIn) -> None:
        """Take other rules from now on."""
        late_binding, control = self._late_binding, self._control
        if body.stealing is not None:
            control.steal(body.stealing)
        if body.pools is not None or body.num_long_units is not None:
            control.divide(body.pools, body.num_long_units)
        if body.learn_threshold is not None:
            control.learns_threshold = body.learn_threshold
        if body.long_threshold_tokens is not None:
            control.set_threshold(body.long_threshold_tokens)
        self._change_queues(body)
        if body.worker_concurrency_limit is not None:
            self._auto_limits.is_on = body.worker_concurrency_limit == "auto"
            if body.worker_concurrency_limit == "none":
                late_binding.set_default_limit(NO_LIMIT)
            elif body.worker_concurrency_limit != "auto":
                late_binding.set_default_limit(body.worker_concurrency_limit)
        late_binding.wake()

    def _change_queues(self, body: PoolsIn) -> None:
        holding = self._late_binding.holding
        if body.queue_order is not None:
            holding.order = ORDERS[body.queue_order]
        holding.max_requests = body.max_queued_requests or holding.max_requests
        holding.max_age_s = body.max_queue_age_s or holding.max_age_s
        holding.max_overtakes = body.max_overtakes or holding.max_overtakes

    def change_unit(self, name: str, body: PooledUnitIn) -> None:
        """Move a unit, or limit it.

        Raises:
            NotFound: there is no such unit.
            Conflict: it cannot be moved.
        """
        unit = self._units.get(name)
        if body.pool is not None:
            try:
                self._control.move_by_hand(name, body.pool)
            except CannotMove as error:
                raise Conflict(str(error), param="pool") from None
        if body.concurrency_limit is not None:
            is_default = body.concurrency_limit == "default"
            unit.concurrency_limit = None if is_default else int(body.concurrency_limit)
        self._late_binding.wake()

    def rules(self) -> dict[str, Any]:
        """The rules in force, by the names of their settings."""
        limit = _limit_shown(self._late_binding.default_limit) or "none"
        holding = self._late_binding.holding
        return {
            "pools": self._control.pools,
            "stealing": self._permits.rule,
            "num_long_units": self._control.rules.num_long,
            "long_threshold_tokens": self._late_binding.classifier.threshold_tokens,
            "learn_threshold": self._control.learns_threshold,
            "queue_order": holding.order.name,
            "max_queued_requests": holding.max_requests,
            "max_queue_age_s": holding.max_age_s,
            "max_overtakes": holding.max_overtakes,
            "worker_concurrency_limit": "auto" if self._auto_limits.is_on else limit,
        }

    def shown(self) -> dict[str, Any]:
        """Everything, as JSON."""
        return {
            **self.rules(),
            "load": round(self._late_binding.load(), 3),
            "units": self._units_shown(),
            "queues": {
                request_class: self._queue_shown(request_class) for request_class in CLASSES
            },
            "prices": [
                {"models": models, "num_long_units": number, "score": score(price), **asdict(price)}
                for models, prices in self._control.prices.items()
                for number, price in sorted(prices.items())
            ],
            "moves": [
                {"time": made.time, "controller": made.controller, **asdict(made.move)}
                for made in self._control.moves
            ],
        }

    def _units_shown(self) -> list[dict[str, Any]]:
        """Those that are capacity; those without a pool serve both classes."""
        return [
            {
                "name": room.unit,
                "models": sorted(room.models),
                "pool": room.pool,
                "concurrency_limit": _limit_shown(room.limit),
                "active": room.active,
                "idle_s": None if room.idle_s == float("inf") else round(room.idle_s, 3),
            }
            for room in self._late_binding.rooms()
        ]

    def _queue_shown(self, request_class: RequestClass) -> dict[str, Any]:
        waiting = self._late_binding.holding.waiting(request_class)
        oldest_s = self._clock() - waiting[0].arrived_s if waiting else 0.0
        return {"length": len(waiting), "oldest_s": round(oldest_s, 3)}


def _limit_shown(limit: int) -> int | None:
    return None if limit >= NO_LIMIT else limit


def pools_router(admin: PoolAdmin) -> APIRouter:
    """The routes under ``/admin/pools``."""
    router = APIRouter(prefix="/admin/pools", tags=["admin"])

    @router.get("")
    async def show() -> dict[str, Any]:
        """Units by pool, queues by class, the rules, the last prices and moves."""
        return admin.shown()

    @router.put("")
    async def change(body: PoolsIn) -> dict[str, Any]:
        """Change rules. Another way of dividing the units begins anew."""
        admin.change(body)
        return admin.shown()

    @router.put("/{name}")
    async def change_unit(name: str, body: PooledUnitIn) -> dict[str, Any]:
        """Move a unit to a pool, where the controller may move it on, or set its limit."""
        admin.change_unit(name, body)
        return admin.shown()

    return router
