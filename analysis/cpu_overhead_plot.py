"""What scheduling costs over load: cores in use, and the time from a free unit to a decision."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import Panel, against_rate, legend
from analysis.view import Drawn, NothingToDraw, View
from exp.study.plan import Scenario

MEASURED = (
    Panel("CPU of the gateway (cores)", "cpu.gateway"),
    Panel("CPU of all sidecars (cores)", "cpu.sidecars"),
)
"""On backends that are processes."""
SIMULATED = (Panel("time spent on deciding (cores)", "deciding_share"),)
"""In the twin, where one process plays gateway and sidecars."""
DECISIONS = (
    Panel("median time of a decision (ms)", "decision_ms.p50"),
    Panel("p99 time of a decision (ms)", "decision_ms.p99"),
)


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario with more than one rate.

    Raises:
        NothingToDraw: there is none in which the cost of decisions was measured.
    """
    scenarios = [
        one
        for one in view.scenarios
        if len(view.rates(one)) > 1 and _measured(view, one, DECISIONS)
    ]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no decisions timed at two or more rates")
    return [_draw(view, one, view.file_name("cpu_overhead", one, scenarios)) for one in scenarios]


def _measured(view: View, scenario: Scenario, panels: Sequence[Panel]) -> list[Panel]:
    """Those of them that have figures."""
    names = {name for point in view.points(scenario) for name in point.figures}
    return [panel for panel in panels if panel.figure in names]


def _draw(view: View, scenario: Scenario, name: str) -> Drawn:
    cores = _measured(view, scenario, MEASURED) or _measured(view, scenario, SIMULATED)
    panels = [*cores, *_measured(view, scenario, DECISIONS)]
    figure = Figure(figsize=(3.6 * len(panels), 3.8), layout="constrained")
    axes = list(figure.subplots(1, len(panels), squeeze=False).flat)
    for panel, one in zip(panels, axes, strict=True):
        against_rate(one, view, scenario, panel, view.systems(scenario))
    figure.suptitle(view.label(scenario.label), fontsize=11)
    legend(figure, axes[0])
    caption = f"{view.label(scenario.label)}: what deciding costs over load."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("cpu_overhead_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
