"""Units that are started when needed: waits and units at work over time, and what it comes to."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import Panel, bars, legend
from analysis.style import plain_logs, tidy
from analysis.view import SECONDS, Columns, Drawn, NothingToDraw, View
from exp.study.plan import Scenario

BIN_S = 10.0
GOOD = Panel("share answered within goals", "all.good_share")
BUSY = Panel("units at work on average", "units_busy")
Series = npt.NDArray[np.float64]


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: no fleet has units in standby.
    """
    scenarios = [one for one in view.scenarios if one.fleet.num_standby and view.rates(one)]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no fleet with units in standby")
    return [_draw(view, one, view.file_name("provision", one, scenarios)) for one in scenarios]


def _draw(view: View, scenario: Scenario, name: str) -> Drawn:
    rate_per_s, systems = view.rate_of([scenario]), view.systems(scenario)
    answered = view.answered(scenario, rate_per_s, "unit", "at_s", "waited_ms", "ttft_ms", "e2e_ms")
    figure = Figure(figsize=(11.0, 5.6), layout="constrained")
    (waits, good), (units, busy) = figure.subplots(2, 2, width_ratios=(2, 1))
    for system in systems:
        runs = answered.get(system.name, [])
        if runs:
            waits.plot(*_over_time(runs, waits_s), **system.style.line(system.label))
            units.plot(*_over_time(runs, units_at_work), **system.style.line(system.label))
    units.sharex(waits)
    waits.set_yscale("log")
    plain_logs(waits.yaxis)
    waits.set_ylabel(f"p90 TTFT of each {BIN_S:g} s (s)")
    units.set_ylabel("units at work")
    units.set_ylim(bottom=0)
    units.set_xlabel("seconds from the start")
    tidy((waits, units))
    for axes, panel in ((good, GOOD), (busy, BUSY)):
        bars(axes, view.found_at(scenario, rate_per_s, panel.figure))
        axes.set_xlabel(panel.label)
    figure.suptitle(view.label(scenario.label), fontsize=11)
    legend(figure, waits)
    caption = f"{view.label(scenario.label)}: waits and units at work over time, means over seeds."
    return Drawn(name, figure, caption)


def _over_time(
    runs: Sequence[Columns], series: Callable[[Columns], Series]
) -> tuple[Series, Series]:
    """Seconds and the mean over seeds, as far as all last."""
    found = [series(run) for run in runs]
    shortest = min(map(len, found))
    mean = np.mean([one[:shortest] for one in found], axis=0)
    return np.arange(shortest, dtype=np.float64) * BIN_S, np.asarray(mean)


def waits_s(run: Columns) -> Series:
    """The 90th percentile of TTFT of those that arrived in each bin; as before where none did."""
    bins = (run["at_s"] // BIN_S).astype(int)
    found: Series = np.full(bins.max() + 1, np.nan)
    for place in range(len(found)):
        of_bin = run["ttft_ms"][bins == place] * SECONDS
        found[place] = np.nanquantile(of_bin, 0.9) if len(of_bin) else found[place - 1]
    return found


def units_at_work(run: Columns) -> Series:
    """How many units had a request in flight at some time in each bin."""
    starts = ((run["at_s"] + np.nan_to_num(run["waited_ms"]) * SECONDS) // BIN_S).astype(int)
    ends = ((run["at_s"] + run["e2e_ms"] * SECONDS) // BIN_S).astype(int)
    units = sorted(set(run["unit"]))
    at_work = np.zeros((len(units), ends.max() + 1), dtype=bool)
    for unit, start, end in zip(run["unit"], starts, ends, strict=True):
        at_work[units.index(unit), start : end + 1] = True
    counts: Series = at_work.sum(axis=0).astype(float)
    return counts


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("provision_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
