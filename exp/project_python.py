"""Running on with the project's own Python where the one at hand lacks its libraries.

Needs only the standard library: people type ``python exp/generate_config.py``, and that ``python``
may be any.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

PROJECT = Path(__file__).resolve().parents[1]
ENVIRONMENT = PROJECT / ".venv"


def run_with_project_python(missing: ModuleNotFoundError) -> NoReturn:
    """Start this program again with ``.venv/bin/python``, or end with status 2 and say what to do.

    ``missing`` is why the Python at hand will not do.
    """
    python = ENVIRONMENT / "bin/python"
    if python.exists() and Path(sys.prefix).resolve() != ENVIRONMENT.resolve():
        os.execv(python, [str(python), *sys.argv])
    print(
        f"error: {sys.executable} has no package {missing.name}, and the project is not installed."
        f" Install it first: bash {seen_from_here(PROJECT / 'exp/setup.sh')} --install-only",
        file=sys.stderr,
    )
    sys.exit(2)


def seen_from_here(path: Path) -> Path:
    """A path for people to type: relative where it lies below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path
