"""How the error of length estimates falls as answers teach: draws a result of exp.length_study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_file
from analysis.style import NAVY, OCHRE, STEEL, Style, tidy
from exp.length_errors import Answered, Window, read_answered, windows

TARGET = 0.8


class _Method(NamedTuple):
    name: str
    label: str
    style: Style


METHODS = (
    _Method("running_mean", "running mean", Style(OCHRE, ":", width=2.2)),
    _Method("raw", "estimator as trained", Style(STEEL, "--", width=1.8)),
    _Method("recalibrated", "estimator, recalibrated online", Style(NAVY, width=2.4)),
)


def draw(answered: Sequence[Answered], size: int) -> Figure:
    """Error above, coverage below, over sliding windows of so many requests."""
    slid = list(windows(answered, min(size, len(answered)), 1))
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    error, coverage = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _draw_errors(error, slid)
    _draw_coverage(coverage, slid)
    error.set_title(
        f"Output lengths of {len(answered)} real answers, estimated before they were given",
        fontsize=11,
    )
    coverage.set_xlabel(f"answers learnt from (mean over a sliding window of {size} requests)")
    tidy((error, coverage))
    return figure


def _draw_errors(axes: Axes, slid: Sequence[Window]) -> None:
    for method in METHODS:
        _line(axes, method, slid, [one.methods[method.name].mae for one in slid])
    axes.set_ylabel("mean absolute error (tokens)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _draw_coverage(axes: Axes, slid: Sequence[Window]) -> None:
    axes.axhline(TARGET, color="black", linewidth=0.8)
    for method in METHODS:
        shares = [one.methods[method.name].coverage_80 for one in slid]
        known = [share for share in shares if share is not None]
        if len(known) == len(shares):
            _line(axes, method, slid, known)
    axes.set_ylabel("share within the\n80 % interval")
    axes.set_ylim(0, 1)


def _line(axes: Axes, method: _Method, slid: Sequence[Window], values: Sequence[float]) -> None:
    axes.plot([one.num_learnt_from for one in slid], values, **method.style.line(method.label))


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.length_error_plot", description=__doc__
    )
    add = parser.add_argument
    add("result", type=Path, nargs="?", default=Path(".astrolabe/length_study.jsonl"))
    add("--output", type=Path, default=Path("docs/figures/length_recalibration.png"))
    add("--window", type=int, default=50, help="requests in a window (default 50)")
    options = parser.parse_args(argv)
    if options.window < 1:
        parser.error(f"--window must be at least 1 (got {options.window})")
    return draw_file(
        options.output,
        lambda: _read(options.result),
        lambda answered: draw(answered, options.window),
    )


def _read(file: Path) -> Sequence[Answered]:
    answered = read_answered(file)
    if not answered:
        raise ValueError(f"{file} holds no answers")
    return answered


if __name__ == "__main__":
    sys.exit(main())
