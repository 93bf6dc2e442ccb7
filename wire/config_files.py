"""Configuration files in JSON, checked by a pydantic model."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

AnyModel = TypeVar("AnyModel", bound=BaseModel)


class ConfigError(ValueError):
    """A configuration file that cannot be used; the message names the file, key and value."""


def load_config(path: Path, kind: type[AnyModel]) -> AnyModel:
    """Read and check a configuration file of any kind.

    Raises:
        ConfigError: the file is missing, is not JSON, or has a wrong or unknown key.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except ValidationError as error:
        raise ConfigError(describe(path, error)) from error


def describe(path: Path, error: ValidationError) -> str:
    """One line for each thing that is wrong, with its key and value."""
    lines = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"]) or "(whole file)"
        is_whole = not item["loc"] or item["type"] in ("missing", "json_invalid")
        shown = "" if is_whole else f" (got {item['input']!r})"
        lines.append(f"{path}: {key}: {item['msg']}{shown}")
    return "\n".join(lines)
