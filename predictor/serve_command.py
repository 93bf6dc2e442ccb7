"""``python -m predictor serve``: the sidecar."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from predictor.app import create_app
from predictor.errors import ConfigurationError
from predictor.settings import ServeSettings
from wire.bounded_heads import BoundedHeadsProtocol
from wire.model_config import ConfigError


def main(arguments: list[str]) -> int:
    """Answer predictions until told to stop; 2 for settings that cannot be used."""
    try:
        settings = CliApp.run(ServeSettings, cli_args=arguments)
        app = create_app(settings)
    except ValidationError as error:
        for item in error.errors():
            flag = "--" + "-".join(str(part) for part in item["loc"]).replace("_", "-")
            got = "" if item["type"] == "missing" else f" (got {item['input']!r})"
            print(f"error: {flag}: {item['msg']}{got}", file=sys.stderr)
        return 2
    except (ConfigError, ConfigurationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        timeout_graceful_shutdown=2,
        http=BoundedHeadsProtocol,
        ws="none",
    )
    return 0
