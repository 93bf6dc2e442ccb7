"""``python -m global_scheduler``: run the gateway."""

from __future__ import annotations

import argparse
import logging
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp, SettingsConfigDict

from global_scheduler.app import create_app
from global_scheduler.errors import GatewayError
from global_scheduler.serving import (
    CONTROL_SOCKET,
    serving_options,
    set_up_logging,
    tune_collector,
)
from global_scheduler.settings import GatewaySettings
from global_scheduler.settings.policy_names import with_one_name
from global_scheduler.workers.processes import Workers
from length_estimation.model_folder import ModelFolderError
from wire.model_config import ConfigError

logger = logging.getLogger(__name__)


def main() -> int:
    """Run until told to stop; 2 for a configuration that cannot be used."""
    try:
        settings = read_settings(sys.argv[1:])
        set_up_logging(settings.log_level)
        _serve(settings)
    except ValidationError as error:
        for item in error.errors():
            name = str(item["loc"][0])  # further parts say which type of several was tried
            if item["type"] != "extra_forbidden":  # that is a variable of a file
                name = "--" + name.replace("_", "-")
            print(f"error: {name}: {item['msg']} (got {item['input']!r})", file=sys.stderr)
        return 2
    except (GatewayError, ConfigError, ModelFolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _serve(settings: GatewaySettings) -> None:
    options = serving_options(settings.log_level)
    if settings.workers == 1:
        app = create_app(settings)
        tune_collector()
        uvicorn.run(app, host=settings.host, port=settings.port, **options)
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.create_server((settings.host, settings.port), family=family)
    host, port = listener.getsockname()[:2]
    logger.info("%d workers serve http://%s:%d", settings.workers, host, port)
    with listener, tempfile.TemporaryDirectory(prefix="astrolabe-") as folder:
        workers = Workers(settings.workers, listener, Path(folder), settings.log_level)
        app = create_app(settings, workers)
        tune_collector()
        uvicorn.run(app, uds=str(Path(folder) / CONTROL_SOCKET), **options)


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

    return CliApp.run(SettingsWithFile, cli_args=_with_one_policy(argv))


def _with_one_policy(argv: Sequence[str]) -> list[str]:
    """``--scheduler`` as ``--policy``, so that either comes before either name in the file."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    # Values that are missing are left to the parser of all flags.
    finder.add_argument("--policy", nargs="?", default=argparse.SUPPRESS)
    finder.add_argument("--scheduler", nargs="?")
    known, others = finder.parse_known_args(argv)
    if known.scheduler is None:
        return list(argv)
    return [*others, *(f"--{name}={value}" for name, value in with_one_name(vars(known)).items())]


if __name__ == "__main__":
    sys.exit(main())
