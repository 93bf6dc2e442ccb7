"""All settings of the gateway."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from global_scheduler.settings.policy_names import AskedPolicy, OtherName
from global_scheduler.settings.pools import PoolSettings
from global_scheduler.settings.provisioning import ProvisioningSettings
from global_scheduler.settings.queueing import QueueSettings
from global_scheduler.settings.quotas import QuotaSettings
from global_scheduler.settings.sources import SourceWithOtherNames

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class GatewaySettings(
    ProvisioningSettings, QuotaSettings, PoolSettings, QueueSettings, BaseSettings
):
    """Astrolabe's global scheduler: an OpenAI-compatible gateway in front of several vLLM servers.

    Example:
      python -m global_scheduler --unit a=http://10.0.0.5:8001,http://10.0.0.5:8101
                                 --unit b=http://10.0.0.6:8001,http://10.0.0.6:8101
    """

    model_config = SettingsConfigDict(
        env_prefix="ASTROLABE_GATEWAY_",
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="python -m global_scheduler",
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    env_file: Path | None = Field(
        default=None,
        description="a file of NAME=VALUE lines, such as config/router_static.env; flags and the "
        "environment come before it",
    )
    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: int = Field(
        default=8200, ge=0, le=65535, description="port to listen on; 0 takes a free one"
    )
    unit: Annotated[list[str], NoDecode] = Field(
        default_factory=list,
        description="a unit as NAME[@LIMIT]=ENGINE_URL[,PREDICTOR_URL], LIMIT being the requests "
        "at a time on it; repeat for each unit",
    )
    hosts: Path | None = Field(
        default=None, description="a host configuration file that lists the units"
    )
    workers: PositiveInt = Field(
        default=1,
        description="processes that relay between clients and engines; with more than one, another "
        "process decides for all of them",
    )
    policy: AskedPolicy = Field(
        default="min_total_delay",
        description="how a unit is chosen; min_lunmnix_load is min_llumnix_load",
    )
    scheduler: OtherName = Field(
        default=None, exclude=True, description="another name for --policy"
    )
    num_query_predictors: NonNegativeInt = Field(
        default=0,
        description="sidecars asked for each request, drawn at random (power of k); 0 asks all",
    )
    prediction_deadline_ms: PositiveFloat = Field(
        default=50.0, description="answers that take longer are not waited for"
    )
    coalesce_ms: NonNegativeFloat = Field(
        default=1.0,
        description="requests that arrive within this time share one call to each sidecar",
    )
    max_body_bytes: PositiveInt = Field(
        default=4 << 20, description="larger request bodies get a 413"
    )
    max_attempts: PositiveInt = Field(
        default=3, description="units tried for a request that fails before its first byte"
    )
    engine_timeout_s: PositiveFloat = Field(
        default=600.0,
        description="longest silence of an engine before its request counts as failed",
    )
    health_interval_s: PositiveFloat = Field(default=1.0, description="time between health checks")
    health_timeout_s: PositiveFloat = Field(
        default=2.0, description="a slower health answer is a failure"
    )
    tokenizer: Path | None = Field(
        default=None,
        description="tokenizer.json (or its folder) to count prompt tokens with; without it they "
        "are estimated and corrected by the engines' usage figures",
    )
    length_estimator: str = Field(
        default="default",
        description="what estimates output lengths: the model that comes with Astrolabe (default), "
        "the folder of another one, or none: then a running mean does",
    )
    length_deadline_ms: PositiveFloat = Field(
        default=50.0,
        description="after which the running mean takes the place of the model's estimate",
    )
    request_log: Path | None = Field(
        default=None,
        description="file to append each answered request to, prompt and all, for training a "
        "length estimator; nothing is written without it",
    )
    request_log_max_bytes: PositiveInt = Field(
        default=100 << 20, description="of one file; nine older ones are kept beside it"
    )
    api_key: Annotated[list[SecretStr], NoDecode] = Field(
        default_factory=list, description="a key that clients must send; repeat for several"
    )
    engine_api_key: SecretStr | None = Field(
        default=None,
        description="the key that the engines ask for; without it clients' keys pass through",
    )
    admin_token: SecretStr | None = Field(
        default=None,
        description="token for /admin; without one /admin answers only when bound to loopback",
    )
    seed: int | None = Field(
        default=None, description="seed of random choices, for repeatable runs"
    )
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("unit", "api_key", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Repeated flags arrive joined by commas; the comma inside a unit stands before a URL."""
        if not isinstance(value, str):
            return value
        return [part for part in re.split(r",(?!https?://)", value) if part]

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The usual ones in their usual order."""
        sources = (init_settings, env_settings, dotenv_settings, file_secret_settings)
        return tuple(SourceWithOtherNames(source) for source in sources)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the gateway."""
        return self.host in LOOPBACK
