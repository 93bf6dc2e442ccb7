"""Which unit is in which pool. Pure: who is told what by whom is ``control_loop.py``'s affair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from global_scheduler.pools.base import (
    Controller,
    Demand,
    Move,
    PooledUnit,
    PoolSituation,
    least_busy,
)
from global_scheduler.pools.regimes import Regime
from global_scheduler.queueing.waiting import RequestClass

Models = tuple[str, ...]
"""Sorted. Only units that serve the same models can stand in for one another."""


class CannotMove(ValueError):
    """A unit cannot be put into a pool by hand; the message says why."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """A unit that is healthy and does not drain."""

    name: str
    models: Models
    active: int


@dataclass(frozen=True, slots=True)
class Group:
    """At least two units that serve the same models."""

    models: Models
    units: tuple[PooledUnit, ...]


class PoolBook:
    """The pools. Without a regime there are none: every unit serves both classes.

    So does a unit that is alone in serving its models. Units that are away keep their place for
    when they come back; until then they are no capacity.
    """

    def __init__(self, regime: Regime | None = None) -> None:
        self._regime = regime
        self._pools: dict[str, RequestClass] = {}
        self._controllers: dict[Models, Controller] = {}
        self._groups: dict[Models, list[Capacity]] = {}

    @property
    def regime(self) -> Regime | None:
        """How units are divided now."""
        return self._regime

    def switch(self, regime: Regime | None, *, anew: bool = True) -> None:
        """Take another regime; it divides the units ``anew`` at the next ``seat`` if told."""
        self._regime = regime
        self._controllers.clear()
        self._groups.clear()
        if anew:
            self._pools.clear()

    def pool_of(self, unit: str) -> RequestClass | None:
        """None is in no pool."""
        return self._pools.get(unit)

    def class_of(self, unit: str) -> RequestClass | None:
        """Of the requests that a unit is there for; None serves both."""
        pool = self._pools.get(unit)
        return None if pool == "long" and self._has_open_long else pool

    def groups(self) -> list[Group]:
        """Those that were there at the last ``seat``, in their present pools."""
        return [Group(models, self._pooled(units)) for models, units in self._groups.items()]

    def seat(self, capacity: Sequence[Capacity], registered: Collection[str]) -> list[Move]:
        """Give units that have come a pool, and take notice of those that have gone.

        Forgets all that are not ``registered``. Each group keeps a unit that serves short requests,
        and as many long ones as its regime demands.
        """
        if self._regime is None:
            return []
        self._groups = _groups(capacity)
        grouped = {unit.name for units in self._groups.values() for unit in units}
        alone = {unit.name for unit in capacity} - grouped
        kept = set(registered) - alone
        self._pools = {unit: pool for unit, pool in self._pools.items() if unit in kept}
        self._controllers = {
            models: self._controllers.get(models) or self._regime.new_controller()
            for models in self._groups
        }
        moves = []
        for units in self._groups.values():
            for unit in units:
                if unit.name not in self._pools:
                    self._pools[unit.name] = self._first_pool(units, self._regime)
            moves += self._fill_gaps(units, self._regime)
        return moves

    def needs_prices(self, group: Group) -> bool:
        """Whether its controller looks at them."""
        return group.models in self._controllers and self._controllers[group.models].needs_prices

    def decide(self, models: Models, demand: Demand, now_s: float) -> Move | None:
        """Carry out what the controller of a group wants; None, too, if the group is no more."""
        if models not in self._groups:
            return None
        units = self._pooled(self._groups[models])
        move = self._controllers[models].decide(PoolSituation(units, demand), now_s)
        if move is not None:
            self._pools[move.unit] = move.to
        return move

    def assign(self, unit: str, pool: RequestClass) -> None:
        """Put a unit into a pool by hand.

        Raises:
            CannotMove: it has no pool, or is the last short unit of its group.
        """
        if unit not in self._pools:
            raise CannotMove(f"unit {unit!r} is in no pool: it serves both classes")
        for units in self._groups.values():
            pooled = self._pooled(units)
            short = [one.name for one in pooled if one.pool == "short"]
            if pool == "long" and short == [unit] and not self._has_open_long:
                raise CannotMove(f"unit {unit!r} is the last one for short requests")
        self._pools[unit] = pool

    @property
    def _has_open_long(self) -> bool:
        return self._regime is not None and self._regime.has_open_long

    def _pooled(self, units: Sequence[Capacity]) -> tuple[PooledUnit, ...]:
        return tuple(PooledUnit(unit.name, self._pools[unit.name], unit.active) for unit in units)

    def _first_pool(self, units: Sequence[Capacity], regime: Regime) -> RequestClass:
        pools = [self._pools.get(unit.name) for unit in units]
        if regime.num_long is None:
            return "long"
        return "long" if "short" in pools and pools.count("long") < regime.num_long else "short"

    def _fill_gaps(self, units: Sequence[Capacity], regime: Regime) -> list[Move]:
        moves: list[Move] = []
        short = [unit for unit in self._pooled(units) if unit.pool == "short"]
        long = [unit for unit in self._pooled(units) if unit.pool == "long"]
        if not short and not regime.has_open_long:
            moves.append(Move(least_busy(long).name, "short", "the last short unit has gone"))
        elif len(long) < regime.min_long and len(short) > 1:
            moves.append(Move(least_busy(short).name, "long", "a long unit has gone"))
        for move in moves:
            self._pools[move.unit] = move.to
        return moves


def _groups(capacity: Sequence[Capacity]) -> dict[Models, list[Capacity]]:
    groups: dict[Models, list[Capacity]] = {}
    for unit in sorted(capacity, key=lambda one: one.name):
        groups.setdefault(unit.models, []).append(unit)
    return {models: units for models, units in groups.items() if len(units) > 1}
