"""The sidecar's settings: command-line flags, or environment variables with the prefix
``ASTROLABE_PREDICTOR_``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from predictor.state.select import STALE_AFTER_S, StateChoice
from wire.bounded_numbers import BoundedNumbers
from wire.model_config import HF_CONFIG_HELP

BackendName = Literal["fast", "vidur"]
Rules = Literal["vllm", "sarathi"]


class ServeSettings(BoundedNumbers, BaseSettings):
    """Serve what-if predictions for one vLLM server.

    Every flag can be set by an environment variable too: --engine-url by
    ASTROLABE_PREDICTOR_ENGINE_URL, and so on.
    """

    model_config = SettingsConfigDict(
        env_prefix="ASTROLABE_PREDICTOR_",
        extra="forbid",
        cli_implicit_flags=True,
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
        description="JSON file of the model: the limits of vLLM's scheduler, and its architecture "
        "if that is not known here",
    )
    hf_config: Path | None = Field(None, description=HF_CONFIG_HELP)
    gpu: str = Field(description="the GPU's name, such as A30, A100-80G, H100 or CPU")
    backend: BackendName = Field(
        "fast",
        description="what plays the engine forward: the compiled what-if, or stock Vidur, the "
        "reference (pip install '.[vidur]' in Astrolabe's folder)",
    )
    rules: Rules | None = Field(
        None,
        description="whose scheduler it plays: vllm (fast's default) or sarathi (Vidur's; its "
        "only one)",
    )
    profile: str | None = Field(
        None,
        description="name or path of a step-time profile (python -m predictor profile makes them); "
        "without one, step times start from the architecture and the GPU's data sheet",
    )
    learn: bool = Field(
        True, description="learn step times from the engine's own steps, where its plug-in runs"
    )
    calibrate: bool = Field(
        True, description="correct latencies by what the gateway tells of requests that have ended"
    )
    state: StateChoice = Field(
        "auto",
        description="where the engine's state comes from: its plug-in, what the gateway has sent "
        "to it (ledger), its /metrics (coarse), or the best that works at the moment",
    )
    max_state_age_s: PositiveFloat = Field(
        STALE_AFTER_S,
        description="older states of an engine with work to do are used but marked as stale",
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
