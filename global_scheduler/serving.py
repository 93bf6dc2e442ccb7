"""How the gateway's processes serve HTTP, be they one or several."""

from __future__ import annotations

import gc
import logging
from typing import Any

from wire.bounded_heads import BoundedHeadsProtocol

CONTROL_SOCKET = "control.sock"
"""Where the scheduler of several workers serves HTTP, in a folder of its own;"""
TICKET_SOCKET = "tickets.sock"
"""and where workers ask it about generations."""
SHUTDOWN_GRACE_S = 5
GC_THRESHOLDS = 10_000, 20, 50
"""Allocations between collections; Python's own of 700 cost a tenth of the gateway's speed."""


def serving_options(log_level: str) -> dict[str, Any]:
    """Uvicorn's: no work for a request that nobody asks for, and heads of bounded size."""
    return {
        "http": BoundedHeadsProtocol,
        "ws": "none",
        "log_level": log_level,
        "access_log": False,
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": SHUTDOWN_GRACE_S,
    }


def set_up_logging(log_level: str) -> None:
    """One format for all processes."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )


def tune_collector() -> None:
    """What was imported and configured stays: no collection need look at it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
