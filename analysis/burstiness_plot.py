"""How latencies grow as arrivals come in bursts."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator

from analysis.command import draw_study
from analysis.curves import E2E_MEAN, E2E_P99, TTFT_MEAN, TTFT_P99, Panel, band, finish, legend
from analysis.view import Drawn, NothingToDraw, Spot, View
from exp.study.plan import Scenario

BURSTINESS = "burstiness"
"""The variable of scenarios: the shape of gamma-distributed gaps."""


def draw(view: View) -> list[Drawn]:
    """One figure, at one rate.

    Raises:
        NothingToDraw: fewer than two scenarios differ in burstiness.
    """
    by_value = {value: scenario for scenario, _, (value,) in view.varying(BURSTINESS)}
    if len(by_value) < 2:
        raise NothingToDraw(
            f"{view.results.folder}: fewer than two scenarios with the variable {BURSTINESS!r}"
        )
    rate_per_s = view.rate_of(list(by_value.values()))
    figure = Figure(figsize=(9.6, 6.4), layout="constrained")
    axes = list(figure.subplots(2, 2, sharex=True).flat)
    for panel, one in zip((TTFT_MEAN, E2E_MEAN, TTFT_P99, E2E_P99), axes, strict=True):
        _draw_panel(one, view, by_value, panel, rate_per_s)
    for one in axes[2:]:
        one.set_xlabel("shape of gamma-distributed gaps\n(1: Poisson; less: burstier)")
    title = f"Bursty arrivals, on average {rate_per_s:g} requests/s"
    figure.suptitle(title, fontsize=11)
    legend(figure, axes[0])
    return [Drawn("burstiness", figure, f"{title}: latencies over burstiness. {view.spread()}")]


def _draw_panel(
    axes: Axes, view: View, by_value: dict[float, Scenario], panel: Panel, rate_per_s: float
) -> None:
    for system in view.systems():
        spots = [
            Spot(value, found)
            for value, scenario in sorted(by_value.items())
            if (found := view.at(scenario, system, panel.figure, rate_per_s, panel.factor))
        ]
        if spots:
            band(axes, spots, system.style, system.label)
    axes.set_xscale("log")
    axes.set_xticks(sorted(by_value), [f"{value:g}" for value in sorted(by_value)])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    finish(axes, panel)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("burstiness_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
