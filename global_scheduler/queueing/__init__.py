"""Where requests wait for a unit, and in which order they leave."""

from __future__ import annotations

from global_scheduler.queueing import (
    adaptive,
    cost_optimized,
    edf,
    fifo,
    priority,
    round_robin,
    sjf,
    slo_aware,
    srtf,
)
from global_scheduler.queueing.base import Order

ORDERS = {
    order.name: order
    for order in (
        Order("fifo", fifo.rank),
        Order("priority", priority.rank),
        Order("sjf", sjf.rank, needs_lengths=True),
        Order("srtf", srtf.rank, needs_lengths=True),
        Order("edf", edf.rank),
        Order("round_robin", round_robin.rank),
        Order("cost_optimized", cost_optimized.rank, needs_lengths=True),
        Order("slo_aware", slo_aware.rank, needs_lengths=True),
        Order("adaptive", adaptive.rank, needs_load=True, needs_lengths=True),
    )
}
"""Every order by the name that ``--queue-order`` and the admin API take."""

__all__ = ["ORDERS", "Order"]
