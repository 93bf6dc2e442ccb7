"""What a group of units has before it: the requests that wait or are expected, and its own load."""

from __future__ import annotations

from dataclasses import dataclass

from global_scheduler.late_binding import LateBinding
from global_scheduler.pools.book import Group
from global_scheduler.pools.pricing import ClassOf, Load, plan, upcoming
from global_scheduler.queueing.waiting import CLASSES, Waiting
from global_scheduler.split_prices import Case
from global_scheduler.units import Unit, UnitRegistry

HORIZON_S = 4.0
"""What arrived within this time is expected to arrive again within it."""


@dataclass(frozen=True, slots=True)
class Prospect:
    """A group at one moment."""

    group: Group
    units: dict[str, Unit]
    requests: list[Waiting]
    """In the order in which they should leave."""
    class_of: ClassOf

    @property
    def num_long_units(self) -> int:
        """At present."""
        return sum(unit.pool == "long" for unit in self.group.units)

    def case(self, num_long_units: int) -> Case:
        """How requests would be shared out among the units of a split."""
        loads = [
            Load(unit, self.units[unit.name].num_outstanding_tokens) for unit in self.group.units
        ]
        shares = plan(loads, num_long_units, self.requests, self.class_of)
        return Case(shares, self.class_of)


def prospect_of(
    group: Group, units: UnitRegistry, late_binding: LateBinding, class_of: ClassOf
) -> Prospect:
    """As it is now, if classes were told apart by ``class_of``."""
    models = group.models
    recent = [
        one
        for name in CLASSES
        for one in late_binding.recent(name, HORIZON_S)
        if one.model in models
    ]
    requests = upcoming(
        [one for one in late_binding.holding.waiting() if one.model in models],
        sorted(recent, key=lambda one: one.arrived_s),
        class_of,
        horizon_s=HORIZON_S,
        num_units=len(group.units),
    )
    by_name = {unit.name: units.get(unit.name) for unit in group.units}
    return Prospect(group, by_name, requests, class_of)
