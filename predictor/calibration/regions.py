"""Regions of load, in which a model errs in different ways."""

from __future__ import annotations

from typing import Literal, get_args

from wire.prediction import Prediction

Region = Literal["idle", "running", "queue", "kv_pressure"]
REGIONS: tuple[Region, ...] = get_args(Region)

KV_PRESSURE_SHARE = 0.1
"""With less than this share of the KV blocks free, preemptions are near."""


def region_of(raw: Prediction) -> Region:
    """The region of the state that a prediction started from."""
    if raw.kv_blocks_free < KV_PRESSURE_SHARE * raw.kv_blocks_total:
        return "kv_pressure"
    if raw.num_waiting > 0:
        return "queue"
    return "running" if raw.num_running > 0 else "idle"
