"""Llumnix, which moves running requests between units, beside schedulers that do not."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import (
    E2E_MEAN,
    E2E_P99,
    TTFT_MEAN,
    TTFT_P99,
    Panel,
    against_rate,
    legend,
)
from analysis.view import Drawn, NothingToDraw, View
from exp.study.plan import Scenario

PANELS = (
    TTFT_MEAN,
    E2E_MEAN,
    Panel("migrations per request", "migrations_per_request"),
    TTFT_P99,
    E2E_P99,
    Panel("preemptions per request", "preemptions_per_request"),
)


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: no system in it migrates requests.
    """
    pairs = view.results.config.study.pairs()
    migrating = {
        scenario.name
        for scenario, system in pairs
        if (system.migration or scenario.twin.migration) != "none"
    }
    scenarios = [one for one in view.scenarios if one.name in migrating and view.rates(one)]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no system that migrates requests")
    return [
        _draw(view, one, view.file_name("llumnix_comparison", one, scenarios)) for one in scenarios
    ]


def _draw(view: View, scenario: Scenario, name: str) -> Drawn:
    figure = Figure(figsize=(11.0, 6.4), layout="constrained")
    axes = list(figure.subplots(2, 3, sharex=True).flat)
    for panel, one in zip(PANELS, axes, strict=True):
        against_rate(one, view, scenario, panel, view.systems(scenario))
    for one in axes[:3]:
        one.set_xlabel("")
    figure.suptitle(view.label(scenario.label), fontsize=11)
    legend(figure, axes[0])
    caption = f"{view.label(scenario.label)}: latencies with and without moving running requests."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("llumnix_comparison_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
