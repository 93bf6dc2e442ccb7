"""A fixed partition: units stay where they were put (AdaSplit's ``router_static``)."""

from __future__ import annotations

from global_scheduler.pools.base import Move, PoolSituation


class Static:
    """Never moves a unit."""

    name = "static"
    needs_prices = False

    def decide(self, situation: PoolSituation, now_s: float) -> Move | None:
        """None."""
        return None
