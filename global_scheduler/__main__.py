"""``python -m global_scheduler``: run the gateway."""

from __future__ import annotations

import logging
import sys

import uvicorn
from pydantic import ValidationError
from pydantic_settings import CliApp

from global_scheduler.app import create_app
from global_scheduler.errors import GatewayError
from global_scheduler.settings import GatewaySettings
from length_estimation.model_folder import ModelFolderError
from wire.model_config import ConfigError

SHUTDOWN_GRACE_S = 5


def main() -> int:
    """Run until told to stop; 2 for a configuration that cannot be used."""
    try:
        settings = CliApp.run(GatewaySettings)
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
    uvicorn.run(
        app,
        host=settings.host,
        port=settings.port,
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
