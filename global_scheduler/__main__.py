"""``python -m global_scheduler``: run the gateway."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsConfigDict

from global_scheduler.app import create_app
from global_scheduler.errors import GatewayError
from global_scheduler.settings import GatewaySettings
from length_estimation.model_folder import ModelFolderError
from wire.model_config import ConfigError

SHUTDOWN_GRACE_S = 5
GC_THRESHOLDS = 10_000, 20, 50
"""Allocations between collections; Python's own of 700 cost a tenth of the gateway's speed."""


def main() -> int:
    """Run until told to stop; 2 for a configuration that cannot be used."""
    try:
        settings = read_settings(sys.argv[1:])
        logging.basicConfig(
            level=settings.log_level.upper(),
            format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        )
        app = create_app(settings)
    except ValidationError as error:
        for item in error.errors():
            flag = "--" + "-".join(str(part) for part in item["loc"]).replace("_", "-")
            print(f"error: {flag}: {item['msg']} (got {item['input']!r})", file=sys.stderr)
        return 2
    except (GatewayError, ConfigError, ModelFolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    # What was imported and configured stays: no collection need look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    return 0


def read_settings(argv: Sequence[str]) -> GatewaySettings:
    """From flags, else the environment, else the file that ``--env-file`` names.

    Raises:
        ValidationError: a setting cannot be used.
        OSError: the file cannot be read.
    """
    # Looked for ahead of all other flags, which are checked together with what the file says.
    finder = argparse.ArgumentParser(
        prog="python -m global_scheduler", add_help=False, allow_abbrev=False
    )
    finder.add_argument("--env-file", type=Path)
    path = finder.parse_known_args(argv)[0].env_file
    if path is not None:
        path.open().close()  # one that is missing would be passed over in silence

    class SettingsWithFile(GatewaySettings):
        __doc__ = GatewaySettings.__doc__
        model_config = SettingsConfigDict(env_file=path)

    return CliApp.run(SettingsWithFile, cli_args=list(argv))


if __name__ == "__main__":
    sys.exit(main())
