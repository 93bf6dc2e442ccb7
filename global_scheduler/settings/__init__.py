"""The gateway's configuration: command line, environment (``ASTROLABE_GATEWAY_*``), defaults."""

from __future__ import annotations

from global_scheduler.settings.gateway import GatewaySettings

__all__ = ["GatewaySettings"]
