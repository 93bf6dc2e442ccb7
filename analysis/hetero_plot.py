"""Unequal units: latencies over load, capacity, and how much of the work each kind of GPU does."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_study
from analysis.curves import E2E_MEAN, E2E_P99, TTFT_P99, against_rate, bars, legend, name_rows
from analysis.style import GREY, LIGHT_GREY, NAVY, SMALL, Style
from analysis.view import Columns, Drawn, NothingToDraw, View
from exp.study.case import Fleet
from exp.study.plan import Scenario

KINDS = (Style(LIGHT_GREY, hatch="//"), Style(NAVY), Style(GREY, hatch=".."), Style("#d8d8d8"))
"""Of GPUs, in the fleet's order."""


def draw(view: View) -> list[Drawn]:
    """A figure for each scenario.

    Raises:
        NothingToDraw: no fleet has more than one kind of GPU.
    """
    scenarios = [
        one
        for one in view.scenarios
        if len({group.gpu for group in one.fleet.groups}) > 1 and view.rates(one)
    ]
    if not scenarios:
        raise NothingToDraw(f"{view.results.folder}: no fleet with more than one kind of GPU")
    return [_draw(view, one, view.file_name("hetero", one, scenarios)) for one in scenarios]


def _draw(view: View, scenario: Scenario, name: str) -> Drawn:
    systems = view.systems(scenario)
    figure = Figure(figsize=(10.4, 7.2), layout="constrained")
    (ttft, e2e), (capacity, work) = figure.subplots(2, 2)
    against_rate(ttft, view, scenario, TTFT_P99, systems)
    against_rate(e2e, view, scenario, E2E_MEAN, systems)
    limit_s = min(view.results.config.study.capacity_ttft_s, default=0.0)
    found = view.capacities(scenario, limit_s)
    if found:
        bars(capacity, found)
        capacity.set_xlabel("capacity (requests/s)")
        capacity.set_title(f"p99 TTFT within {limit_s:g} s", fontsize=10)
    else:
        against_rate(capacity, view, scenario, E2E_P99, systems)
    _draw_work(work, view, scenario)
    figure.suptitle(view.label(scenario.label), fontsize=11)
    legend(figure, ttft)
    caption = f"{view.label(scenario.label)}: latencies, capacity and who generated the tokens."
    return Drawn(name, figure, f"{caption} {view.spread()}")


def _draw_work(axes: Axes, view: View, scenario: Scenario) -> None:
    """For each system a bar of output tokens, cut by kind of GPU."""
    rate_per_s = view.rate_of([scenario])
    answered = view.answered(scenario, rate_per_s, "unit", "num_output_tokens")
    gpus = gpus_of_units(scenario.fleet)
    kinds = list(dict.fromkeys(gpus.values()))
    systems = [one for one in view.systems(scenario) if one.name in answered]
    shares = np.array([_shares(answered[one.name], gpus, kinds) for one in systems])
    starts = shares.cumsum(axis=1) - shares
    places = range(len(systems))
    for column, kind in enumerate(kinds):
        style = KINDS[column % len(KINDS)]
        axes.barh(places, shares[:, column], left=starts[:, column], **style.bar(kind))
        for place, (start, share) in enumerate(
            zip(starts[:, column], shares[:, column], strict=True)
        ):
            _write_share(axes, float(start + share / 2), place, float(share))
    name_rows(axes, systems)
    axes.grid(visible=False)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of output tokens")
    axes.set_title(f"at {rate_per_s:g} requests/s", fontsize=10)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.08), ncols=len(kinds), frameon=False)


def _write_share(axes: Axes, x: float, place: int, share: float) -> None:
    if share > 0.05:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
        axes.text(x, place, f"{share:.0%}", ha="center", va="center", fontsize=SMALL, bbox=box)


def gpus_of_units(fleet: Fleet) -> dict[str, str]:
    """GPUs by the names of units."""
    gpus = [group.gpu for group in fleet.groups for _ in range(group.count)]
    return {f"unit-{number:02d}": gpu for number, gpu in enumerate(gpus, start=1)}


def _shares(runs: Sequence[Columns], gpus: dict[str, str], kinds: Sequence[str]) -> list[float]:
    """Of output tokens, by kind of GPU, of all seeds together."""
    tokens = dict.fromkeys(kinds, 0)
    for run in runs:
        for unit in set(run["unit"]) & set(gpus):
            tokens[gpus[unit]] += int(run["num_output_tokens"][run["unit"] == unit].sum())
    return [tokens[kind] / max(1, sum(tokens.values())) for kind in kinds]


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for results that cannot be used."""
    return draw_study("hetero_plot", __doc__, draw, argv)


if __name__ == "__main__":
    sys.exit(main())
