"""Q-HAP: queue-aware hysteretic adaptive partitioning (AdaSplit seed, "Macro-Layer")."""

from __future__ import annotations

from dataclasses import dataclass

from global_scheduler.pools.base import Move, PoolSituation, least_busy


@dataclass(frozen=True, slots=True)
class QhapLimits:
    """The seed's defaults; ``min_long`` alone is ours."""

    scale_up_above: int = 10
    """Long requests waiting, above which a short unit becomes long."""
    scale_down_below: int = 2
    """And below which a long unit becomes short."""
    min_short: int = 1
    min_long: int = 0
    """The seed keeps none: a lone long request can then only be stolen."""
    cooldown_s: float = 5.0


class Qhap:
    """Moves a unit when too many or too few long requests wait."""

    name = "qhap"
    needs_prices = False

    def __init__(self, limits: QhapLimits) -> None:
        self._limits = limits
        self._moved_s = float("-inf")

    def decide(self, situation: PoolSituation, now_s: float) -> Move | None:
        """The seed's rules; nothing within ``cooldown_s`` of the last move."""
        if now_s - self._moved_s < self._limits.cooldown_s:
            return None
        move = self._wanted(situation)
        if move is not None:
            self._moved_s = now_s
        return move

    def _wanted(self, situation: PoolSituation) -> Move | None:
        limits, waiting = self._limits, situation.demand.queue_long
        short, long = situation.of("short"), situation.of("long")
        if waiting > limits.scale_up_above and len(short) > limits.min_short:
            reason = f"queue_long {waiting} > {limits.scale_up_above}"
            return Move(least_busy(short).name, "long", reason)
        if waiting < limits.scale_down_below and len(long) > limits.min_long:
            reason = f"queue_long {waiting} < {limits.scale_down_below}"
            return Move(least_busy(long).name, "short", reason)
        return None
