"""Waits for the first token under each way of pooling: draws a result of benchmarks.pools."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.pool_figures import PoolStudy, read_study
from exp.workloads.mixed import LONG, SHORT

LOWEST_SHARE = 0.005


class _Style(NamedTuple):
    """Lines differ in lightness and dashes, so that they can be told apart in grey."""

    label: str
    colour: str
    dashes: str
    width: float


STYLES = {
    "none": _Style("no pools", "#c9a227", ":", 2.2),
    "static": _Style("static", "#9a9a9a", "-.", 1.8),
    "qhap+rasp": _Style("Q-HAP with RASP", "#5f86a8", "--", 1.8),
    "predictive": _Style("predictive", "#12355b", "-", 2.4),
}


def draw(study: PoolStudy) -> Figure:
    """For each class the share of requests that waited longer, over all runs."""
    figure = Figure(figsize=(7.8, 3.8), layout="constrained")
    short, long = figure.subplots(1, 2, sharey=True)
    _draw_class(short, study, SHORT)
    _draw_class(long, study, LONG)
    short.set_ylabel("share of requests that waited longer")
    num_traces = len({run.seed for run in study.runs})
    figure.suptitle(
        f"Time to first token: {study.num_units} {study.engine} units,"
        f" {num_traces} trace{'s' if num_traces > 1 else ''} of {study.duration_s:g} s",
        fontsize=11,
    )
    lines, labels = short.get_legend_handles_labels()
    figure.legend(lines, labels, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _draw_class(axes: Axes, study: PoolStudy, request_class: str) -> None:
    for name, style in STYLES.items():
        waits_ms = [
            ttft_ms
            for run in study.runs
            if run.configuration == name
            for ttft_ms in run.ttft_ms.get(request_class, ())
        ]
        if not waits_ms:
            continue
        longer = 1 - np.arange(len(waits_ms)) / len(waits_ms)
        axes.step(
            np.sort(waits_ms) / 1e3,
            longer,
            where="post",
            label=style.label,
            color=style.colour,
            linestyle=style.dashes,
            linewidth=style.width,
        )
    if goal_ms := study.ttft_goal_ms.get(request_class):
        axes.axvline(goal_ms / 1e3, color="black", linewidth=0.8)
        axes.text(goal_ms / 1e3, 1.05, "goal", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_SHARE, 1.0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_xlabel(f"TTFT of {request_class} requests (s)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save as PNG and PDF; 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.pools_plot", description=__doc__)
    parser.add_argument("result", type=Path, nargs="?", default=Path(".astrolabe/pools.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/figures/pools.png"))
    options = parser.parse_args(argv)
    try:
        study = read_study(options.result.read_bytes())
    except (OSError, ValueError) as error:
        print(f"error: {options.result}: {error}", file=sys.stderr)
        return 2
    if not any(run.ttft_ms for run in study.runs):
        print(f"error: {options.result} holds no answered requests", file=sys.stderr)
        return 2
    options.output.parent.mkdir(parents=True, exist_ok=True)
    figure = draw(study)
    for file in (options.output, options.output.with_suffix(".pdf")):
        figure.savefig(file, dpi=150)
        print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
