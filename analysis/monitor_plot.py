"""Units over time, as exp.monitor_vllm saw them: requests, KV cache, tokens a second, TTFT."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.command import draw_file
from analysis.style import CYCLE, GREY, Style, tidy
from exp.scrapes import OK, Row, read_rows

GATEWAY = "gateway"


class _Panel(NamedTuple):
    label: str
    value: Callable[[Row], float | None]
    top: float | None = None
    of_gateway: bool = False
    """Whether the gateway has such a figure."""


PANELS = (
    _Panel("requests running", lambda row: row.num_running),
    _Panel("requests waiting\n(gateway: its queue)", lambda row: row.num_waiting, None, True),
    _Panel("KV cache in use (%)", lambda row: _scaled(row.kv_cache_usage, 100), 100),
    _Panel("output tokens a second", lambda row: row.generation_tokens_per_s),
    _Panel("mean TTFT (s)", lambda row: _scaled(row.ttft_mean_ms, 1e-3), None, True),
)
OF_GATEWAY = Style("black", width=0.8)


def draw(rows: Sequence[Row]) -> Figure:
    """A panel for each figure, a line for each unit; gaps where a unit did not answer."""
    began_s = min(row.time_s for row in rows)
    names = sorted({row.unit for row in rows} - {GATEWAY})
    figure = Figure(figsize=(8.0, 9.6), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    for panel, one in zip(PANELS, axes, strict=True):
        for index, name in enumerate(names):
            style = CYCLE[index % len(CYCLE)]._replace(width=1.6)  # units are equals
            _line(one, panel, [row for row in rows if row.unit == name], began_s, name, style)
        if panel.of_gateway:
            seen = [row for row in rows if row.unit == GATEWAY]
            _line(one, panel, seen, began_s, GATEWAY, OF_GATEWAY)
        one.set_ylabel(panel.label)
        one.set_ylim(0, panel.top)
    tidy(axes)
    is_any_dead = _mark_dead(axes[0], rows, names, began_s)
    axes[-1].set_xlabel("seconds")
    _legend(figure, axes, is_any_dead)
    return figure


def _line(
    axes: Axes,
    panel: _Panel,
    rows: Sequence[Row],
    began_s: float,
    name: str,
    style: Style,
) -> None:
    """One unit; dots, too, where values stand alone between unknown ones."""
    values = [panel.value(row) for row in rows]
    axes.plot(
        [row.time_s - began_s for row in rows],
        [math.nan if value is None else value for value in values],
        marker=".",
        markersize=2.5,
        **style.line(name),
    )


def _mark_dead(axes: Axes, rows: Sequence[Row], names: Sequence[str], began_s: float) -> bool:
    """Crosses at the foot of the first panel where a unit gave no figures."""
    dead = [row for row in rows if row.state != OK and row.unit in names]
    for row in dead:
        colour = CYCLE[names.index(row.unit) % len(CYCLE)].colour
        axes.plot(row.time_s - began_s, 0, "x", color=colour, markersize=5, clip_on=False)
    return bool(dead)


def _legend(figure: Figure, axes: Sequence[Axes], is_any_dead: bool) -> None:
    handles, labels = axes[1].get_legend_handles_labels()
    if is_any_dead:
        handles.append(Line2D([], [], color=GREY, marker="x", linestyle="none"))
        labels.append("no answer")
    figure.legend(handles, labels, loc="outside upper center", ncols=5, frameon=False)


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.monitor_plot", description=__doc__)
    add = parser.add_argument
    add("result", type=Path, nargs="?", default=Path(".astrolabe/monitor.csv"))
    add("--output", type=Path, help="the picture; a PDF is put beside it (default: as the result)")
    options = parser.parse_args(argv)
    output = options.output or options.result.with_suffix(".png")
    return draw_file(output, lambda: _read(options.result), draw)


def _read(file: Path) -> Sequence[Row]:
    rows = read_rows(file)
    if not rows:
        raise ValueError(f"{file} has no rows")
    return rows


if __name__ == "__main__":
    sys.exit(main())
