"""The sidecar's settings: command-line flags, or environment variables with the prefix
``ASTROLABE_PREDICTOR_``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServeSettings(BaseSettings):
    """Serve what-if predictions for one vLLM server.

    Every flag can be set by an environment variable too: --engine-url by
    ASTROLABE_PREDICTOR_ENGINE_URL, and so on.
    """

    model_config = SettingsConfigDict(
        env_prefix="ASTROLABE_PREDICTOR_",
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="python -m predictor serve",
        protected_namespaces=(),
        cli_hide_none_type=True,
        frozen=True,
    )

    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 for all")
    port: int = Field(8101, ge=0, le=65535, description="port to listen at")
    engine_url: str = Field(
        "http://127.0.0.1:8001",
        pattern=r"^https?://[^\s/]+(/[^\s]*)?$",
        description="the vLLM server that this sidecar predicts; its /metrics is read when its "
        "plug-in cannot be",
    )
    engine_id: str = Field(
        "unit-1",
        min_length=1,
        description="the name under which the plug-in publishes (ASTROLABE_ENGINE_ID of vLLM)",
    )
    model_config_path: Path = Field(
        # pydantic keeps the name model_config for itself
        validation_alias=AliasChoices("model-config", "ASTROLABE_PREDICTOR_MODEL_CONFIG"),
        description="JSON file of the model: its architecture and the limits of vLLM's scheduler",
    )
    gpu: str = Field(description="the GPU's name, such as A30, A100-80G, H100 or CPU")
    profile: Path | None = Field(
        None,
        description="folder with a measured Vidur profile (mlp.csv and attention.csv); without "
        "one, step times come from the architecture and the GPU's data sheet",
    )
    state: Literal["auto", "plugin", "metrics"] = Field(
        "auto",
        description="where the engine's state comes from: its plug-in, its /metrics (coarse), or "
        "the best that works at the moment",
    )
    snapshot: str | None = Field(
        None,
        description="where the plug-in publishes: shm:ENGINE_ID on the same host (the default, "
        "with --engine-id), http://host:port/snapshot, or unix:/path",
    )
    default_output_tokens: PositiveFloat = Field(
        256.0, description="expected output of requests that no gateway tells the sidecar about"
    )
    max_waiting: PositiveInt = Field(
        8, description="calls that may wait for the simulation; further ones get 503 at once"
    )
    max_questions: PositiveInt = Field(64, description="most questions in one call")
    max_body_bytes: PositiveInt = Field(4_000_000, description="largest body that is read")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged to stderr"
    )
