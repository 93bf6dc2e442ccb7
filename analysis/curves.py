"""Lines with confidence bands, and bars with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.style import SMALL, Style, plain_logs, tidy
from analysis.view import SECONDS, Shown, Spot, View
from exp.study.plan import Scenario
from exp.study.results import Interval


class Panel(NamedTuple):
    """What one pair of axes shows."""

    label: str
    figure: str
    """As in ``exp/study/figures.py``."""
    factor: float = 1.0
    is_log: bool = False


TTFT_MEAN = Panel("mean TTFT (s)", "all.ttft_ms.mean", SECONDS, True)
TTFT_P99 = Panel("p99 TTFT (s)", "all.ttft_ms.p99", SECONDS, True)
E2E_MEAN = Panel("mean E2E latency (s)", "all.e2e_ms.mean", SECONDS, True)
E2E_P99 = Panel("p99 E2E latency (s)", "all.e2e_ms.p99", SECONDS, True)
THROUGHPUT = Panel("throughput (answers/s)", "all.throughput_per_s")


def band(axes: Axes, spots: Sequence[Spot], style: Style, label: str) -> None:
    """A line through the values and a light band between the ends of their intervals."""
    xs = [spot.x for spot in spots]
    axes.plot(xs, [spot.y.value for spot in spots], **style.marks(label))
    lows, highs = [spot.y.low for spot in spots], [spot.y.high for spot in spots]
    axes.fill_between(xs, lows, highs, **style.band())


def against_rate(
    axes: Axes, view: View, scenario: Scenario, panel: Panel, systems: Sequence[Shown]
) -> None:
    """A line for each system that has the figure."""
    for system in systems:
        spots = view.curve(scenario, system, panel.figure, panel.factor)
        if spots:
            band(axes, spots, system.style, system.label)
    axes.set_xlabel("requests/s")
    finish(axes, panel)


def finish(axes: Axes, panel: Panel) -> None:
    """Label and scale of the y axis."""
    axes.set_ylabel(panel.label)
    if panel.is_log:
        axes.set_yscale("log")
        plain_logs(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    tidy([axes])


def bars(axes: Axes, found: Sequence[tuple[Shown, Interval]]) -> None:
    """A bar a system from top to bottom, with the ends of its interval and its value."""
    for place, (system, interval) in enumerate(found):
        axes.barh(place, interval.value, height=0.7, **system.style.bar(system.label))
        ends = [[interval.value - interval.low], [interval.high - interval.value]]
        for colour, width in (("white", 2.5), ("black", 1.0)):  # to be seen on dark bars, too
            axes.errorbar(
                interval.value, place, xerr=np.clip(ends, 0, None), fmt="none", ecolor=colour,
                elinewidth=width, capsize=3, capthick=width,
            )  # fmt: skip
        axes.annotate(
            f"{interval.value:.3g}", (interval.high, place), (5, 0), textcoords="offset points",
            va="center", fontsize=SMALL,
        )  # fmt: skip
    name_rows(axes, [system for system, _ in found])
    axes.set_xlim(0, 1.12 * max((one.high for _, one in found), default=1.0))


def name_rows(axes: Axes, systems: Sequence[Shown]) -> None:
    """Systems from top to bottom."""
    axes.set_yticks(range(len(systems)), [system.label for system in systems])
    axes.invert_yaxis()
    tidy([axes])
    axes.grid(visible=False, axis="y")


def legend(figure: Figure, axes: Axes) -> None:
    """Below all axes, of the lines in one of them, in as many columns as there is room for."""
    lines, labels = axes.get_legend_handles_labels()
    column_inches = 0.75 + 0.085 * max(map(len, labels), default=1)
    figure.legend(
        lines,
        labels,
        loc="outside lower center",
        ncols=max(1, min(len(labels), int(figure.get_figwidth() / column_inches))),
        frameon=False,
        handlelength=3.2,
    )
