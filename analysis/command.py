"""What the commands that draw figures share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from analysis.style import save
from exp.workloads.errors import WorkloadError

Result = TypeVar("Result")


def draw_file(picture: Path, read: Callable[[], Result], draw: Callable[[Result], Figure]) -> int:
    """Read, draw, save: the exit status, which is 2 for a file that cannot be used.

    ``read`` raises OSError, ValueError or WorkloadError if there is nothing of its kind to draw.
    """
    try:
        result = read()
    except (OSError, ValueError, WorkloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    save(draw(result), picture)
    return 0
