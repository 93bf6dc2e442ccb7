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
        Order("sjf", sjf.rank),
        Order("srtf", srtf.rank),
        Order("edf", edf.rank),
        Order("round_robin", round_robin.rank),
        Order("cost_optimized", cost_optimized.rank),
        Order("slo_aware", slo_aware.rank),
        Order("adaptive", adaptive.rank, needs_load=True),
    )
}
"""Every order by the name that ``--queue-order`` and the admin API take."""

__all__ = ["ORDERS", "Order"]
