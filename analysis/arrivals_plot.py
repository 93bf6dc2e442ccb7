"""When requests arrive and how much prompt they bring: draws a trace of exp.workload_gen."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.command import draw_file
from analysis.style import GREY, NAVY, OCHRE, Style, tidy
from exp.workloads.arrivals import Phases
from exp.workloads.errors import TraceError
from exp.workloads.trace import TracedRequest, TraceHeader, read_trace

MOST_BINS = 120


STYLES = {"short": Style(OCHRE), "long": Style(NAVY, "--")}
OTHER = Style(GREY, ":")


def draw(trace: tuple[TraceHeader, Sequence[TracedRequest]]) -> Figure:
    """Requests a second above, prompt tokens a second below; ON phases are shaded."""
    header, requests = trace
    last_s = max(request.at_s for request in requests)
    bin_s = max(1.0, np.ceil(last_s / MOST_BINS))
    edges = np.arange(0.0, last_s + bin_s + 1e-9, bin_s)
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    count, work = figure.subplots(2, 1, sharex=True)
    for name in sorted({request.request_class for request in requests}, reverse=True):
        mine = [request for request in requests if request.request_class == name]
        times = [request.at_s for request in mine]
        tokens = [request.about_prompt_tokens for request in mine]
        style, label = STYLES.get(name, OTHER), f"{name} ({len(mine)})"
        count.stairs(np.histogram(times, edges)[0] / bin_s, edges, **style.line(label))
        work.stairs(np.histogram(times, edges, weights=tokens)[0] / bin_s, edges, **style.line())
    count.set_ylabel("requests a second")
    work.set_ylabel("prompt tokens a second")
    work.set_xlabel("seconds from the start")
    for axes in (count, work):
        _shade_on(axes, header, float(edges[-1]))
        axes.set_ylim(bottom=0)
    tidy((count, work))
    figure.legend(*count.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _shade_on(axes: Axes, header: TraceHeader, end_s: float) -> None:
    """Only mixed traces have phases; recorded ones are what they are."""
    parameters = header.parameters
    if "on" not in parameters or "replay" in parameters:
        return
    phases = Phases(float(parameters["on"]), float(parameters["off"]))
    for start_s, stop_s, is_on in phases.until(min(end_s, float(parameters["duration"]))):
        if is_on:
            axes.axvspan(start_s, stop_s, color="black", alpha=0.06, linewidth=0)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, draw, save; 2 for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.arrivals_plot", description=__doc__)
    parser.add_argument("trace", type=Path, nargs="?", default=Path(".astrolabe/trace.jsonl"))
    parser.add_argument("--output", type=Path, default=Path(".astrolabe/arrivals.png"))
    options = parser.parse_args(argv)
    return draw_file(options.output, lambda: _read(options.trace), draw)


def _read(file: Path) -> tuple[TraceHeader, Sequence[TracedRequest]]:
    header, requests = read_trace(file)
    if not requests:
        raise TraceError(f"{file} holds no requests")
    return header, requests


if __name__ == "__main__":
    sys.exit(main())
