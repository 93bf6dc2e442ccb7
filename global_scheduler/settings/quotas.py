"""Settings of quotas."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveFloat, SecretStr, field_validator
from pydantic_settings import NoDecode

from global_scheduler.quotas.base import WhenUnknown
from wire.bounded_numbers import BoundedNumbers


class QuotaSettings(BoundedNumbers):
    """How much each key may use."""

    quota: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list,
        description="what an API key may use a minute, as KEY=REQUESTS/TOKENS with - for no limit; "
        "the key 'default' stands for every other one; repeat for several",
    )
    quota_store: Path | None = Field(
        default=None,
        description="the SQLite file in which uses are counted, shared by the gateways of a host; "
        "without it astrolabe/quotas.sqlite in the user's state folder",
    )
    redis_url: SecretStr | None = Field(
        default=None,
        description="count uses in this Redis, shared by gateways on any host, in place of SQLite; "
        "needs the extra 'redis'",
    )
    quota_deadline_ms: PositiveFloat = Field(
        default=250.0, description="after which the store of quotas counts as failed"
    )
    quota_when_unknown: WhenUnknown = Field(
        default="open",
        description="while the store fails, requests are let in uncounted (open) or refused with a "
        "503 (closed)",
    )

    @field_validator("quota", mode="before")
    @classmethod
    def _split_quotas(cls, value: object) -> object:
        """Repeated flags arrive joined by commas."""
        return [part for part in value.split(",") if part] if isinstance(value, str) else value

    @property
    def quota_file(self) -> Path | None:
        """Where SQLite counts; None is in memory, for a gateway that starts without quotas."""
        if self.quota_store is not None or not self.quota:
            return self.quota_store
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state) / "astrolabe" / "quotas.sqlite"
