"""``python -m length_estimation serve``: estimates over HTTP."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Literal

import uvicorn
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict

from length_estimation.model_folder import DEFAULT_FOLDER, ModelFolderError
from length_estimation.online.estimator import OnlineEstimator
from length_estimation.online.http_app import create_app
from wire.bounded_heads import BoundedHeadsProtocol
from wire.bounded_numbers import BoundedNumbers


class ServeSettings(BoundedNumbers, BaseSettings):
    """Serve estimates of output lengths over HTTP.

    Every flag can be set by an environment variable too: --model-folder by
    ASTROLABE_LENGTHS_MODEL_FOLDER, and so on.
    """

    model_config = SettingsConfigDict(
        env_prefix="ASTROLABE_LENGTHS_",
        extra="forbid",
        cli_kebab_case=True,
        cli_prog_name="python -m length_estimation serve",
        protected_namespaces=(),
        frozen=True,
    )

    model_folder: Path = Field(
        DEFAULT_FOLDER, description="a model as exported by training; the shipped one by default"
    )
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 for all")
    port: int = Field(8300, ge=0, le=65535, description="port to listen at")
    deadline_s: PositiveFloat = Field(
        1.0, description="questions without an answer after so long get an error"
    )
    max_waiting: PositiveInt = Field(
        256, description="questions that may wait for the model; the oldest beyond get an error"
    )
    cache_size: PositiveInt = Field(
        10_000, description="questions whose estimate is remembered; only these can be observed"
    )
    num_threads: PositiveInt = Field(1, description="threads of one inference")
    max_body_bytes: PositiveInt = Field(4 << 20, description="largest body that is read")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="what is logged to stderr"
    )


def main(arguments: list[str]) -> int:
    """Answer until told to stop; 2 for settings or a model that cannot be used."""
    try:
        settings = CliApp.run(ServeSettings, cli_args=arguments)
        estimator = OnlineEstimator(
            settings.model_folder,
            deadline_s=settings.deadline_s,
            max_waiting=settings.max_waiting,
            cache_size=settings.cache_size,
            num_threads=settings.num_threads,
        )
    except ValidationError as error:
        for item in error.errors():
            flag = "--" + "-".join(str(part) for part in item["loc"]).replace("_", "-")
            print(f"error: {flag}: {item['msg']} (got {item['input']!r})", file=sys.stderr)
        return 2
    except ModelFolderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    uvicorn.run(
        create_app(estimator, max_body_bytes=settings.max_body_bytes),
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=2,
        http=BoundedHeadsProtocol,
        ws="none",
    )
    return 0
