"""``python -m predictor``: the sidecar's commands."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from predictor.app import create_app
from predictor.errors import ConfigurationError
from predictor.settings import ServeSettings
from wire.model_config import ConfigError

USAGE = """usage: python -m predictor COMMAND [OPTIONS]

Predicts what a request would meet on one vLLM server.

commands:
  serve    answer predictions over HTTP, next to a vLLM server (serve --help lists its options)

example:
  python -m predictor serve --port 8101 --engine-url http://127.0.0.1:8001 --engine-id unit-1 \\
      --model-config config/llama_config.json --gpu A30
"""


def main(arguments: list[str]) -> int:
    """Run a command; 2 for a command line or configuration that cannot be used."""
    commands: dict[str, Callable[[list[str]], int]] = {"serve": serve}
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    command = commands.get(arguments[0])
    if command is None:
        print(f"error: no command {arguments[0]!r}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    return command(arguments[1:])


def serve(arguments: list[str]) -> int:
    """Answer predictions until told to stop."""
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
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
