"""What errors of predicted lengths and step times cost: heat maps of latencies over both."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import E2E_MEAN, TTFT_P99, Panel
from analysis.style import SMALL
from analysis.view import Drawn, NothingToDraw, View

LENGTH_ERROR, STEP_ERROR = "length_error", "step_error"
"""Variables: standard deviations of logarithms."""
DARK = 0.55
"""Up to this place in the colour map text is white."""
LEAST_RANGE = 1.25
"""Smaller differences are not blown up to the whole range of colours."""
Cells = dict[tuple[float, float], tuple[str, str]]
"""Scenario and system by error of lengths and of step times."""


def draw(view: View) -> list[Drawn]:
    """A row of heat maps for each system.

    Raises:
        NothingToDraw: nothing varies both errors.
    """
    rows: dict[str, Cells] = {}
    for scenario, system, errors in view.varying(LENGTH_ERROR, STEP_ERROR):
        label = view.system_name if system.variables else view.label(system.label)
        rows.setdefault(label, {})[errors[0], errors[1]] = (scenario.name, system.name)
    if not rows:
        raise NothingToDraw(
            f"{view.results.folder}: nothing varies {LENGTH_ERROR!r} and {STEP_ERROR!r}"
        )
    named = {scenario for cells in rows.values() for scenario, _ in cells.values()}
    rate_per_s = view.rate_of([one for one in view.scenarios if one.name in named])
    panels = (TTFT_P99, E2E_MEAN)
    figure = Figure(figsize=(10.0, 0.6 + 3.6 * len(rows)), layout="constrained")
    axes = iter(figure.subplots(len(rows), len(panels), squeeze=False).T.flat)
    for panel in panels:
        grids = [_grid(view, cells, panel, rate_per_s) for cells in rows.values()]
        least = float(np.nanmin(grids))
        norm = LogNorm(least, max(np.nanmax(grids), LEAST_RANGE * least))
        for (label, cells), grid in zip(rows.items(), grids, strict=True):
            _draw_grid(one := next(axes), cells, grid, norm)
            one.set_title(f"{label}: {panel.label}", fontsize=10)
    title = f"Errors of predictions, at {rate_per_s:g} requests/s"
    figure.suptitle(title, fontsize=11)
    caption = f"{title}: p99 TTFT and mean E2E latency; lighter is slower. {view.spread()}"
    return [Drawn("prediction_error", figure, caption)]


def _sides(cells: Cells) -> tuple[list[float], list[float]]:
    """Errors of lengths and of step times, ascending."""
    return sorted({one for one, _ in cells}), sorted({other for _, other in cells})


def _grid(view: View, cells: Cells, panel: Panel, rate_per_s: float) -> np.ndarray:
    """A row for each error of step times; NaN where nothing was measured."""
    lengths, steps = _sides(cells)
    scenarios = {one.name: one for one in view.scenarios}
    systems = {one.name: one for one in view.systems()}
    grid = np.full((len(steps), len(lengths)), np.nan)
    for (length, step), (scenario, system) in cells.items():
        found = view.at(
            scenarios[scenario], systems[system], panel.figure, rate_per_s, panel.factor
        )
        if found:
            grid[steps.index(step), lengths.index(length)] = found.value
    return grid


def _draw_grid(axes: Axes, cells: Cells, grid: np.ndarray, norm: LogNorm) -> None:
    """Coloured cells with their values in them."""
    lengths, steps = _sides(cells)
    axes.imshow(grid, norm=norm, cmap="cividis", origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "white" if norm(value) < DARK else "black"
            axes.text(
                column, row, f"{value:.3g}", ha="center", va="center", color=colour, fontsize=SMALL
            )
    axes.set_xticks(range(len(lengths)), [f"{one:g}" for one in lengths])
    axes.set_yticks(range(len(steps)), [f"{one:g}" for one in steps])
    axes.set_xlabel("error of lengths (s.d. of the logarithm)")
    axes.set_ylabel("error of step times")
    axes.spines[:].set_visible(False)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("prediction_error_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
