"""Waits for the first token of short and of long requests, under each way of sharing the units.

Draws the results of a study, or one of benchmarks.pools.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import add_study_options, draw_file, save_study
from analysis.curves import Panel, against_rate, legend
from analysis.style import GREY, NAVY, OCHRE, SMALL, STEEL, Style, plain_logs, tail, tidy
from analysis.view import SECONDS, Drawn, NothingToDraw, Shown, View
from benchmarks.pool_figures import PoolStudy, read_study
from exp.study.plan import Scenario
from exp.workloads.mixed import LONG, SHORT

CLASSES = (SHORT, LONG)
LOWEST_SHARE = 0.005
OF_BENCHMARK = (
    Shown("none", "no pools", Style(OCHRE, ":", width=2.2)),
    Shown("static", "static", Style(GREY, "-.", width=1.8)),
    Shown("qhap+rasp", "Q-HAP with RASP", Style(STEEL, "--", width=1.8)),
    Shown("predictive", "predictive", Style(NAVY, width=2.4)),
)


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: none has short and long requests.
    """
    scenarios = [one for one in view.scenarios if _has_classes(view, one)]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no points with short and long requests")
    return [_draw_scenario(view, one, view.file_name("pools", one, scenarios)) for one in scenarios]


def _has_classes(view: View, scenario: Scenario) -> bool:
    names = {name for point in view.points(scenario) for name in point.figures}
    return all(f"{one}.ttft_ms.p99" in names for one in CLASSES)


def _draw_scenario(view: View, scenario: Scenario, name: str) -> Drawn:
    """Over load above, tails at one rate below."""
    systems, rate_per_s = view.systems(scenario), view.rate_of([scenario])
    answered = view.answered(scenario, rate_per_s, "request_class", "ttft_ms")
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    over_load, tails = figure.subplots(2, 2, sharey="row")
    for column, request_class in enumerate(CLASSES):
        panel = Panel("p99 TTFT (s)", f"{request_class}.ttft_ms.p99", SECONDS, True)
        against_rate(over_load[column], view, scenario, panel, systems)
        over_load[column].set_title(f"{request_class} requests", fontsize=10)
        for system in systems:
            waits_ms = [
                run["ttft_ms"][run["request_class"] == request_class]
                for run in answered.get(system.name, ())
            ]
            if waits_ms:
                tail(tails[column], np.concatenate(waits_ms) * SECONDS, system.style, system.label)
        goal_ms = scenario.goals[request_class].ttft_ms if request_class in scenario.goals else None
        _finish_tails(tails[column], request_class, goal_ms)
    over_load[1].set_ylabel("")
    tails[0].set_ylabel(f"share that waited longer\nat {rate_per_s:g} requests/s")
    figure.suptitle(view.label(scenario.label), fontsize=11)
    legend(figure, over_load[0])
    caption = f"{view.label(scenario.label)}: waits of short and long requests. {view.spread()}"
    return Drawn(name, figure, f"{caption} Tails: all seeds together.")


def draw_benchmark(study: PoolStudy) -> Figure:
    """For each class the share of requests that waited longer, over all runs."""
    figure = Figure(figsize=(7.8, 3.8), layout="constrained")
    short, long = figure.subplots(1, 2, sharey=True)
    for axes, request_class in ((short, SHORT), (long, LONG)):
        for one in OF_BENCHMARK:
            runs = [run for run in study.runs if run.configuration == one.name]
            waits_ms = [wait for run in runs for wait in run.ttft_ms.get(request_class, ())]
            if waits_ms:
                tail(axes, np.array(waits_ms) * SECONDS, one.style, one.label)
        _finish_tails(axes, request_class, study.ttft_goal_ms.get(request_class))
    short.set_ylabel("share of requests that waited longer")
    num_traces = len({run.seed for run in study.runs})
    figure.suptitle(
        f"Time to first token: {study.num_units} {study.engine} units,"
        f" {num_traces} trace{'s' if num_traces > 1 else ''} of {study.duration_s:g} s",
        fontsize=11,
    )
    legend(figure, short)
    return figure


def _finish_tails(axes: Axes, request_class: str, goal_ms: float | None) -> None:
    """Scales and labels, and a line at the goal."""
    if goal_ms is not None:
        axes.axvline(goal_ms * SECONDS, color="black", linewidth=0.8)
        axes.text(goal_ms * SECONDS, 1.05, "goal", ha="center", fontsize=SMALL)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_SHARE, 1.0)
    plain_logs(axes.xaxis, axes.yaxis)
    axes.set_xlabel(f"TTFT of {request_class} requests (s)")
    tidy([axes])


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save as PNG and PDF; 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.pools_plot", description=__doc__)
    add_study_options(parser, is_required=False)
    add = parser.add_argument
    add("result", type=Path, nargs="?", default=Path(".astrolabe/pools.json"),
        help="of benchmarks.pools, if --results is not given")  # fmt: skip
    add("--output", type=Path, default=Path("docs/figures/pools.png"), help="the figure of that")
    options = parser.parse_args(argv)
    if options.results is not None:
        return save_study(options, draw)
    return draw_file(options.output, lambda: _read(options.result), draw_benchmark)


def _read(file: Path) -> PoolStudy:
    try:
        study = read_study(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not any(run.ttft_ms for run in study.runs):
        raise ValueError(f"{file} holds no answered requests")
    return study


if __name__ == "__main__":
    sys.exit(main())
