"""Which unit is in which pool. Pure: who is told what by whom is ``control_loop.py``'s affair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from global_scheduler.pools.base import Controller, Move, PooledUnit, PoolSituation, SplitPrice
from global_scheduler.queueing.waiting import RequestClass

Group = tuple[str, ...]
"""The models that units serve, sorted: only units that serve the same can stand in for one another."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A unit that is healthy and does not drain."""

    name: str
    models: Group
    active: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for the units of a group, and what splits of them would cost."""

    queue_short: int
    queue_long: int
    prices: Mapping[int, SplitPrice]


class PoolBook:
    """The pools. A unit that comes is short, unless there are fewer long ones than ``num_long``.

    Without a controller there are no pools: every unit serves both classes.
    """

    def __init__(self, new_controller: Callable[[], Controller] | None, num_long: int = 1) -> None:
        """``new_controller`` makes one for each group, for each has a cooldown of its own."""
        self.num_long = num_long
        self._pools: dict[str, RequestClass] = {}
        self._controllers: dict[Group, Controller] = {}
        self._new_controller = new_controller

    def switch(self, new_controller: Callable[[], Controller] | None) -> None:
        """Let others decide from now on; units stay where they are."""
        self._new_controller = new_controller
        self._controllers.clear()

    def pool_of(self, unit: str) -> RequestClass | None:
        """None serves both classes."""
        return None if self._new_controller is None else self._pools.get(unit)

    def assign(self, unit: str, pool: RequestClass) -> None:
        """Put a unit into a pool by hand."""
        self._pools[unit] = pool

    def seat(self, capacity: Sequence[Capacity]) -> list[Move]:
        """Give units that have come a pool, and see that each group has a short one.

        A group of one has no pools: its unit stays out of the book. Units that are away keep their
        place for when they come back.
        """
        moves = []
        for group, units in self._groups(capacity).items():
            if len(units) < 2:
                for unit in units:
                    self._pools.pop(unit.name, None)
                continue
            for unit in units:
                if unit.name not in self._pools:
                    self._pools[unit.name] = self._first_pool(units)
            if all(self._pools[unit.name] == "long" for unit in units):
                unit = min(units, key=lambda one: (one.active, one.name))
                self._pools[unit.name] = "short"
                moves.append(Move(unit.name, "short", "the last short unit has gone"))
        return moves

    def move(
        self, capacity: Sequence[Capacity], backlogs: Mapping[Group, Backlog], now_s: float
    ) -> list[Move]:
        """What the controller wants, at most one move in each group; carried out."""
        moves = []
        for group, units in self._groups(capacity).items():
            if self._new_controller is None or len(units) < 2 or group not in backlogs:
                continue
            if group not in self._controllers:
                self._controllers[group] = self._new_controller()
            backlog = backlogs[group]
            situation = PoolSituation(
                self.pooled(units), backlog.queue_short, backlog.queue_long, dict(backlog.prices)
            )
            move = self._controllers[group].decide(situation, now_s)
            if move is not None:
                self._pools[move.unit] = move.to
                moves.append(move)
        return moves

    def pooled(self, units: Sequence[Capacity]) -> list[PooledUnit]:
        """With their pools; those without one left out."""
        return [
            PooledUnit(unit.name, pool, unit.active)
            for unit in units
            if (pool := self._pools.get(unit.name)) is not None
        ]

    def _first_pool(self, units: Sequence[Capacity]) -> RequestClass:
        pools = [self._pools.get(unit.name) for unit in units]
        return "long" if "short" in pools and pools.count("long") < self.num_long else "short"

    def _groups(self, capacity: Sequence[Capacity]) -> dict[Group, list[Capacity]]:
        groups: dict[Group, list[Capacity]] = {}
        for unit in sorted(capacity, key=lambda one: one.name):
            groups.setdefault(unit.models, []).append(unit)
        return groups
