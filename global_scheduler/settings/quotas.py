"""Settings of quotas."""

from __future__ import annotations

from pydantic import BaseModel


class QuotaSettings(BaseModel):
    """How much each key may use."""
