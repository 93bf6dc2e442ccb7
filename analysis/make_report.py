"""One HTML page with all figures, tables and the configuration of a study's results."""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from matplotlib import rc_context

from analysis import (
    burstiness_plot,
    cpu_overhead_plot,
    experiment_plot,
    hetero_plot,
    llumnix_comparison_plot,
    po2_plot,
    pools_plot,
    prediction_error_plot,
    provision_plot,
)
from analysis.command import UNUSABLE, add_study_options
from analysis.report_tables import (
    LATENCIES,
    WORKINGS,
    capacity_tables,
    point_tables,
    scenario_table,
    system_table,
)
from analysis.view import Drawn, NothingToDraw, View
from exp.study.errors import ResultError
from exp.study.results import CONFIG, open_results

PLOTS: Mapping[str, Callable[[View], list[Drawn]]] = {
    "experiment_plot": experiment_plot.draw,
    "po2_plot": po2_plot.draw,
    "burstiness_plot": burstiness_plot.draw,
    "prediction_error_plot": prediction_error_plot.draw,
    "llumnix_comparison_plot": llumnix_comparison_plot.draw,
    "pools_plot": pools_plot.draw,
    "hetero_plot": hetero_plot.draw,
    "provision_plot": provision_plot.draw,
    "cpu_overhead_plot": cpu_overhead_plot.draw,
}
"""By the names that studies call them by; all are tried for a study that names none."""


class Picture(NamedTuple):
    """A figure within the page."""

    name: str
    caption: str
    svg: str
    """In base 64."""


def render(view: View) -> str:
    """The page; nothing in it is loaded from elsewhere."""
    results = view.results
    drawn, left_out = figures(view)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("report.html").render(
        study=results.config.study,
        config=results.config,
        summary=results.summary,
        commit=results.commit,
        config_json=(results.folder / CONFIG).read_text(encoding="utf-8"),
        system_name=view.system_name,
        capacities=list(capacity_tables(view)),
        figures=[_picture(one) for one in drawn],
        left_out=left_out,
        latencies=list(point_tables(view, LATENCIES)),
        workings=list(point_tables(view, WORKINGS)),
        configuration=[scenario_table(view), system_table(view)],
        failures=[case for case in results.summary.cases if case.error],
    )


def figures(view: View) -> tuple[list[Drawn], list[str]]:
    """Of all plots that the study names, and why some of them are left out."""
    drawn: list[Drawn] = []
    left_out = []
    named = view.results.config.study.plots
    for name in named or PLOTS:
        if name not in PLOTS:
            left_out.append(f"{name}: this version has no such figure")
            continue
        try:
            drawn += PLOTS[name](view)
        except NothingToDraw as error:
            left_out += [f"{name}: {error}"] if named else []
    return drawn, left_out


def _picture(drawn: Drawn) -> Picture:
    """Vectors; the same results make the same bytes."""
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": drawn.name}):
        drawn.figure.savefig(file, format="svg", metadata={"Date": None})
    return Picture(drawn.name, drawn.caption, base64.b64encode(file.getvalue()).decode())


def main(argv: Sequence[str] | None = None) -> int:
    """Read, render, write; 2 for results that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.make_report", description=__doc__)
    add_study_options(parser)
    options = parser.parse_args(argv)
    try:
        results = open_results(options.results)
        page = render(View(results, options.system_name, options.rate))
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    file = (options.output_dir or results.folder) / "report.html"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8")
    print(f"written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
