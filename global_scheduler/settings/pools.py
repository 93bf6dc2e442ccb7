"""Settings of pools and stealing."""

from __future__ import annotations

from pydantic import BaseModel


class PoolSettings(BaseModel):
    """Which units serve which class of requests."""
