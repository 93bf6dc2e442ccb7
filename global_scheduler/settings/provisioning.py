"""Settings of auto-provisioning."""

from __future__ import annotations

from pathlib import Path

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
)

from global_scheduler.provisioning.base import Mode, Quantity, Rules
from wire.bounded_numbers import BoundedNumbers


class ProvisioningSettings(BoundedNumbers):
    """When standby units join and leave."""

    standby_units: Path | None = Field(
        default=None, description="a file of units that are started when needed; none without it"
    )
    provisioning: Mode = Field(
        default="preemptive",
        description="standby units join when arriving requests are predicted to be late "
        "(preemptive) or when requests have been late (reactive)",
    )
    provisioning_latency: Quantity = Field(
        default="ttft", description="the latency that counts, from a request's arrival"
    )
    provisioning_limit_ms: PositiveFloat = Field(
        default=2_000.0, description="a request with a higher one is late"
    )
    provisioning_late_requests: PositiveInt = Field(
        default=3, description="late requests within the window that make a unit join"
    )
    provisioning_window_s: PositiveFloat = Field(
        default=10.0, description="how long a late request counts"
    )
    provisioning_idle_s: PositiveFloat = Field(
        default=60.0, description="a standby unit that could be spared for so long leaves"
    )
    provisioning_cooldown_s: NonNegativeFloat = Field(
        default=30.0, description="from one join or leave to the next"
    )
    provisioning_start_timeout_s: PositiveFloat = Field(
        default=600.0, description="a standby unit that is not healthy by then has failed"
    )
    provisioning_backoff_s: PositiveFloat = Field(
        default=10.0, description="after a failed start or stop; doubled with each that follows"
    )
    min_units: NonNegativeInt = Field(
        default=1, description="none leaves, and standby units join, where fewer take requests"
    )
    max_units: PositiveInt | None = Field(
        default=None, description="units in all, away or not, beyond which none joins"
    )
    standby_dir: Path = Field(
        default=Path(".astrolabe/standby"), description="where logs of standby processes are kept"
    )
    keep_standby_units: bool = Field(
        default=False, description="leave standby units running when the gateway ends"
    )

    @field_validator("max_units")
    @classmethod
    def _not_below_least(cls, value: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get("min_units", 0)
        if value is not None and value < least:
            raise ValueError(f"must be at least min_units, {least}")
        return value

    @property
    def provisioning_rules(self) -> Rules:
        """The same for the controller."""
        return Rules(
            mode=self.provisioning,
            limit_ms=self.provisioning_limit_ms,
            num_late=self.provisioning_late_requests,
            window_s=self.provisioning_window_s,
            idle_s=self.provisioning_idle_s,
            cooldown_s=self.provisioning_cooldown_s,
            min_units=self.min_units,
            max_units=self.max_units,
            start_timeout_s=self.provisioning_start_timeout_s,
            backoff_s=self.provisioning_backoff_s,
        )
