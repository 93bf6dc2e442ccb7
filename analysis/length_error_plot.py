"""How the error of length estimates falls as answers teach: draws a result of exp.length_study."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from exp.length_errors import Answered, Window, read_answered, windows

TARGET = 0.8


class _Style(NamedTuple):
    """Lines differ in lightness and dashes, so that they can be told apart in grey."""

    method: str
    label: str
    colour: str
    dashes: str
    width: float


STYLES = (
    _Style("running_mean", "running mean", "#c9a227", ":", 2.2),
    _Style("raw", "estimator as trained", "#7a8fa6", "--", 1.8),
    _Style("recalibrated", "estimator, recalibrated online", "#12355b", "-", 2.4),
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
    for axes in (error, coverage):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_errors(axes: Axes, slid: Sequence[Window]) -> None:
    for style in STYLES:
        _line(axes, style, slid, [one.methods[style.method].mae for one in slid])
    axes.set_ylabel("mean absolute error (tokens)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def _draw_coverage(axes: Axes, slid: Sequence[Window]) -> None:
    axes.axhline(TARGET, color="black", linewidth=0.8)
    for style in STYLES:
        shares = [one.methods[style.method].coverage_80 for one in slid]
        known = [share for share in shares if share is not None]
        if len(known) == len(shares):
            _line(axes, style, slid, known)
    axes.set_ylabel("share within the\n80 % interval")
    axes.set_ylim(0, 1)


def _line(axes: Axes, style: _Style, slid: Sequence[Window], values: Sequence[float]) -> None:
    axes.plot(
        [one.num_learnt_from for one in slid],
        values,
        linestyle=style.dashes,
        color=style.colour,
        linewidth=style.width,
        label=style.label,
    )


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
    try:
        answered = read_answered(options.result)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not answered:
        print(f"error: {options.result} holds no answers", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    draw(answered, options.window).savefig(options.output, dpi=150)
    print(f"written to {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
