"""What asking only k sidecars costs in latency and capacity, and saves in deciding."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import TTFT_P99, against_rate, bars
from analysis.style import CYCLE, label_ends
from analysis.view import Drawn, NothingToDraw, Shown, View, present
from exp.study.plan import Scenario

K = "k"
"""The variable of systems: so many sidecars are asked."""


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: no systems differ in k.
    """
    varying: dict[str, set[str]] = {}
    for scenario, system, _ in view.varying(K):
        varying.setdefault(scenario.name, set()).add(system.name)
    scenarios = [one for one in view.scenarios if one.name in varying and view.rates(one)]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no systems with the variable {K!r}")
    return [
        _draw(view, one, view.file_name("po2", one, scenarios), varying[one.name])
        for one in scenarios
    ]


def _draw(view: View, scenario: Scenario, name: str, among: set[str]) -> Drawn:
    systems = [one for one in view.systems(scenario) if one.name in among]
    for style, place in zip(CYCLE, reversed(range(len(systems))), strict=False):
        systems[place] = systems[place]._replace(style=style)  # those that ask most stand out
    rate_per_s = view.rate_of([scenario])
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    curves, capacity, deciding = figure.subplots(1, 3)
    against_rate(curves, view, scenario, TTFT_P99, systems)
    _draw_capacity(capacity, view, scenario, systems, rate_per_s)
    bars(
        deciding,
        present(systems, lambda one: view.at(scenario, one, "decision_ms.mean", rate_per_s)),
    )
    deciding.set_xlabel("mean time to decide (ms)")
    deciding.set_title(f"at {rate_per_s:g} requests/s", fontsize=10)
    figure.suptitle(view.label(scenario.label), fontsize=11)
    label_ends(curves)
    caption = f"{view.label(scenario.label)}: asking k sidecars, drawn at random, or all."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def _draw_capacity(
    axes: Axes, view: View, scenario: Scenario, systems: Sequence[Shown], rate_per_s: float
) -> None:
    """Its throughput in place of the capacity, if none was searched."""
    limit_s = min(view.results.config.study.capacity_ttft_s, default=0.0)
    found = present(systems, lambda one: view.capacity_per_s(scenario, one, limit_s))
    if found:
        axes.set_xlabel("capacity (requests/s)")
        axes.set_title(f"p99 TTFT within {limit_s:g} s", fontsize=10)
    else:
        throughput = "all.throughput_per_s"
        found = present(systems, lambda one: view.at(scenario, one, throughput, rate_per_s))
        axes.set_xlabel("throughput (answers/s)")
        axes.set_title(f"at {rate_per_s:g} requests/s", fontsize=10)
    bars(axes, found)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("po2_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
