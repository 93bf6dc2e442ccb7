"""Settings of auto-provisioning."""

from __future__ import annotations

from pydantic import BaseModel


class ProvisioningSettings(BaseModel):
    """When standby units join and leave."""
