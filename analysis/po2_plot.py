"""What asking only k sidecars costs in latency and capacity, and saves in deciding."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import cycle, islice

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import THROUGHPUT, TTFT_P99, against_rate, bars
from analysis.style import CYCLE, label_ends
from analysis.view import Drawn, NothingToDraw, Shown, View
from exp.study.plan import Scenario
from exp.study.results import Interval

K = "k"
"""The variable of systems: so many sidecars are asked."""


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: no systems differ in k.
    """
    varying = {scenario.name for scenario, _, _ in view.varying(K)}
    scenarios = [one for one in view.scenarios if one.name in varying and view.rates(one)]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no systems with the variable {K!r}")
    return [_draw(view, one, view.file_name("po2", one, scenarios)) for one in scenarios]


def _draw(view: View, scenario: Scenario, name: str) -> Drawn:
    rate_per_s = view.rate_of([scenario])
    figure = Figure(figsize=(11.0, 3.6), layout="constrained")
    curves, capacity, deciding = figure.subplots(1, 3)
    against_rate(curves, view, scenario, TTFT_P99, _emphasised(view.systems(scenario)))
    _draw_capacity(capacity, view, scenario, rate_per_s)
    _draw_bars(deciding, view.found_at(scenario, rate_per_s, "decision_ms.mean"))
    deciding.set_xlabel("mean time to decide (ms)")
    deciding.set_title(f"at {rate_per_s:g} requests/s", fontsize=10)
    figure.suptitle(view.label(scenario.label), fontsize=11)
    label_ends(curves)
    caption = f"{view.label(scenario.label)}: asking k sidecars, drawn at random, or all."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def _emphasised(systems: Sequence[Shown]) -> list[Shown]:
    """The last, which asks most, stands out."""
    styles = list(islice(cycle(CYCLE), len(systems)))[::-1]
    return [one._replace(style=style) for one, style in zip(systems, styles, strict=True)]


def _draw_bars(axes: Axes, found: Sequence[tuple[Shown, Interval]]) -> None:
    shown = _emphasised([one for one, _ in found])
    bars(axes, [(one, interval) for one, (_, interval) in zip(shown, found, strict=True)])


def _draw_capacity(axes: Axes, view: View, scenario: Scenario, rate_per_s: float) -> None:
    """Its throughput in place of the capacity, if none was searched."""
    limit_s = min(view.results.config.study.capacity_ttft_s, default=0.0)
    found = view.capacities(scenario, limit_s)
    if found:
        _draw_bars(axes, found)
        axes.set_xlabel("capacity (requests/s)")
        axes.set_title(f"p99 TTFT within {limit_s:g} s", fontsize=10)
    else:
        _draw_bars(axes, view.found_at(scenario, rate_per_s, THROUGHPUT.figure))
        axes.set_xlabel(THROUGHPUT.label)
        axes.set_title(f"at {rate_per_s:g} requests/s", fontsize=10)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("po2_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
