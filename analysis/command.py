"""What the commands that draw figures share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from matplotlib.figure import Figure

from analysis.style import save
from analysis.view import Drawn, NothingToDraw, View
from exp.study.errors import ResultError
from exp.study.results import Results, open_results
from exp.workloads.errors import WorkloadError

Result = TypeVar("Result")
UNUSABLE = 2
"""Exit status for files that cannot be used."""


def draw_file(picture: Path, read: Callable[[], Result], draw: Callable[[Result], Figure]) -> int:
    """Read, draw, save: the exit status.

    ``read`` raises OSError, ValueError or WorkloadError if there is nothing of its kind to draw.
    """
    try:
        result = read()
    except (OSError, ValueError, WorkloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    save(draw(result), picture)
    return 0


def draw_study(
    name: str,
    description: str | None,
    draw: Callable[[View], list[Drawn]],
    argv: Sequence[str] | None = None,
) -> int:
    """The whole command of a figure of a study's results: the exit status."""
    parser = argparse.ArgumentParser(prog=f"python -m analysis.{name}", description=description)
    add_study_options(parser)
    return save_study(parser.parse_args(argv), draw)


def add_study_options(parser: argparse.ArgumentParser, *, is_required: bool = True) -> None:
    """Where results are, where figures go, and what the system is to be called."""
    add = parser.add_argument
    add(
        "--results",
        "--experiments-dir",
        "--data-dir",
        type=Path,
        required=is_required,
        metavar="DIR",
        help="results/STUDY/TIME, or results/STUDY for the newest that is finished",
    )
    add("--output-dir", type=Path, metavar="DIR", help="for the figures (default: DIR/figures)")
    add("--system-name", default="Astrolabe", help="of the system under study (default Astrolabe)")
    add("--rate", type=float, metavar="R", help="for figures that show one rate: requests/s")


def save_study(options: argparse.Namespace, draw: Callable[[View], list[Drawn]]) -> int:
    """Open, draw, save: the exit status."""
    try:
        results = open_results(options.results)
        _check_ended_well(results)
        drawn = draw(View(results, options.system_name, options.rate))
    except (ResultError, NothingToDraw) as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    for one in drawn:
        save(one.figure, (options.output_dir or results.folder / "figures") / f"{one.name}.png")
    return 0


def _check_ended_well(results: Results) -> None:
    """Of a study whose runs have all failed it is no news that a figure has nothing to show."""
    errors = [case.error for case in results.summary.cases if case.error]
    if errors and len(errors) == len(results.summary.cases):
        raise NothingToDraw(f"{results.folder}: all {len(errors)} runs failed: {errors[0]}")
