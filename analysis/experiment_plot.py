"""Latency and throughput over load (qps), capacity over units (linear), and distributions of
latencies at one rate (cdf)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import (
    E2E_MEAN,
    E2E_P99,
    THROUGHPUT,
    TTFT_MEAN,
    TTFT_P99,
    Panel,
    against_rate,
    band,
    legend,
)
from analysis.style import LIGHT_GREY, SMALL, label_ends, plain_logs, tidy
from analysis.view import SECONDS, Drawn, NothingToDraw, Shown, Spot, View
from exp.study.plan import Scenario

SHARES = np.concatenate([np.linspace(0, 0.9, 91), 1 - np.geomspace(0.1, 0.001, 60)[1:]])
"""At which distributions are compared: evenly, and ever finer towards the tail."""


def draw(view: View) -> list[Drawn]:
    """All that the study has the results for.

    Raises:
        NothingToDraw: that is nothing.
    """
    curves = [one for one in view.scenarios if len(view.rates(one)) > 1]
    drawn = [draw_rates(view, one, view.file_name("qps", one, curves)) for one in curves]
    drawn += draw_scaling(view)
    points = [one for one in view.scenarios if view.rates(one)]
    drawn += [draw_distributions(view, one, view.file_name("cdf", one, points)) for one in points]
    if not drawn:
        raise NothingToDraw(
            f"{view.results.folder}: no scenario with points on a curve,"
            " and none with capacities of fleets of different size"
        )
    return drawn


def draw_rates(view: View, scenario: Scenario, name: str) -> Drawn:
    """Six panels over the rate."""
    last = (
        Panel("goodput (answers/s)", "all.goodput_per_s")
        if scenario.goals
        else Panel("share answered", "all.answered_share")
    )
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    panels = (TTFT_MEAN, E2E_MEAN, THROUGHPUT, TTFT_P99, E2E_P99, last)
    systems = view.systems(scenario)
    axes = list(figure.subplots(2, 3, sharex=True).flat)
    for panel, one in zip(panels, axes, strict=True):
        against_rate(one, view, scenario, panel, systems)
        if panel == TTFT_P99:
            _mark_limits(one, view)
    for one in axes[:3]:
        one.set_xlabel("")
    figure.suptitle(view.label(scenario.label), fontsize=11)
    figure.align_ylabels()
    legend(figure, axes[0])
    caption = f"{view.label(scenario.label)}: latency, throughput and answers against load."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def _mark_limits(axes: Axes, view: View) -> None:
    """Under which the capacity is searched."""
    for limit_s in view.results.config.study.capacity_ttft_s:
        axes.axhline(limit_s, color=LIGHT_GREY, linewidth=0.8, zorder=0)
        axes.annotate(
            f"{limit_s:g} s", (0.01, limit_s), xycoords=("axes fraction", "data"),
            fontsize=SMALL, color="#555555", va="bottom",
        )  # fmt: skip


def draw_scaling(view: View) -> list[Drawn]:
    """Capacity against the number of units, for scenarios that differ in it; none without."""
    sizes = {one.name: sum(group.count for group in one.fleet.groups) for one in view.scenarios}
    searched = {one.scenario for one in view.results.summary.capacities if one.per_s}
    scenarios = [one for one in view.scenarios if one.name in searched]
    if len({sizes[one.name] for one in scenarios}) < 2:
        return []
    limits_s = view.results.config.study.capacity_ttft_s
    figure = Figure(figsize=(5.2 * len(limits_s), 4.2), layout="constrained")
    axes = list(figure.subplots(1, len(limits_s), sharey=True, squeeze=False).flat)
    for limit_s, one in zip(limits_s, axes, strict=True):
        for system in view.systems():
            spots = _capacities(view, scenarios, sizes, system, limit_s)
            if len(spots) > 1:
                band(one, spots, system.style, system.label)
        _draw_ideal(one)
        one.set_xlabel("units")
        one.set_xlim(left=0)
        one.set_xticks(sorted(set(sizes.values())))
        one.set_title(f"p99 TTFT within {limit_s:g} s", fontsize=10)
        tidy([one])
    axes[0].set_ylabel("capacity (requests/s)")
    axes[0].set_ylim(bottom=0)
    for one in axes:
        label_ends(one)
    caption = (
        "Capacity against the number of units; dotted: in proportion to the smallest fleet's best."
    )
    return [Drawn("linear", figure, f"{caption} {view.spread()}")]


def _capacities(
    view: View,
    scenarios: Sequence[Scenario],
    sizes: dict[str, int],
    system: Shown,
    limit_s: float,
) -> list[Spot]:
    found = [(sizes[one.name], view.capacity(one, system, limit_s)) for one in scenarios]
    spots = [Spot(size, one.per_s) for size, one in found if one and one.per_s]
    return sorted(spots, key=lambda spot: spot.x)


def _draw_ideal(axes: Axes) -> None:
    """Through the origin and the highest first point."""
    starts = [np.asarray(line.get_xydata())[0] for line in axes.get_lines()]
    ends = [np.asarray(line.get_xydata())[-1, 0] for line in axes.get_lines()]
    if starts:
        best = max(float(y / x) for x, y in starts)
        axes.plot([0, max(ends)], [0, best * max(ends)], ":", color=LIGHT_GREY, zorder=0)


def draw_distributions(view: View, scenario: Scenario, name: str) -> Drawn:
    """TTFT and E2E latency at one rate: their distribution above, their tail below."""
    rate_per_s = view.rate_of([scenario])
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    axes = figure.subplots(2, 2, sharex="col")
    answered = view.answered(scenario, rate_per_s, "ttft_ms", "e2e_ms")
    for column, (latency, label) in enumerate((("ttft_ms", "TTFT"), ("e2e_ms", "E2E latency"))):
        for system in view.systems(scenario):
            by_seed = [
                np.nanquantile(run[latency] * SECONDS, SHARES)
                for run in answered.get(system.name, ())
            ]
            if by_seed:
                _draw_distribution(axes[0, column], axes[1, column], np.array(by_seed), system)
        axes[1, column].set_xlabel(f"{label} (s)")
    for one in axes.flat:
        one.set_xscale("log")
        tidy([one])
    axes[0, 0].set_ylabel("share of requests within")
    figure.align_ylabels(axes[:, 0])
    axes[1, 0].set_ylabel("share of requests that take longer")
    for one in axes[1]:
        one.set_yscale("log")
        one.set_ylim(1 - SHARES[-1], 1)
        plain_logs(one.xaxis, one.yaxis)
    title = f"{view.label(scenario.label)} at {rate_per_s:g} requests/s"
    figure.suptitle(title, fontsize=11)
    legend(figure, axes[0, 0])
    caption = (
        f"{title}: distributions of TTFT and E2E latency of answered requests, and their tails."
    )
    return Drawn(name, figure, f"{caption} Medians over seeds; bands from the least to the most.")


def _draw_distribution(whole: Axes, tail: Axes, by_seed: np.ndarray, system: Shown) -> None:
    middle, low, high = np.median(by_seed, 0), by_seed.min(0), by_seed.max(0)
    for axes, shares in ((whole, SHARES), (tail, 1 - SHARES)):
        axes.plot(middle, shares, **system.style.marks(system.label), markevery=0.12)
        axes.fill_betweenx(shares, low, high, **system.style.band())


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("experiment_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
