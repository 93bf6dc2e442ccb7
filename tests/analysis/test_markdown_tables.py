"""Tables for documents."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis import markdown_tables
from analysis.markdown_tables import GOALS, LATENCIES, as_markdown, tables
from analysis.report_tables import Cell, Table
from tests.analysis.small_studies import scenario, study, view_of


def test_capacities_and_latencies_become_tables(tmp_path: Path) -> None:
    """Every row has as many cells as there are heads, and each point its row."""
    view = view_of(study(scenario(capacity_near_per_s=2.0)), tmp_path)
    capacities, latencies = tables(view, LATENCIES)
    assert "requests/s" in capacities.heads[1]
    assert len(latencies.rows) == len(view.points(view.scenarios[0]))
    _, goals = tables(view, GOALS)
    assert [head for head in goals.heads if "goal" in head] == ["within goals, %"]
    for table in (capacities, latencies, goals):
        lines = as_markdown(table).splitlines()[2:]
        assert {line.count("|") for line in lines} == {len(table.heads) + 1}


def test_the_best_stands_out_and_bars_do_not_break_a_row() -> None:
    """As the report has it, with the interval behind the value."""
    table = Table("T", ["a", "b"], [[Cell("x|y"), Cell("2.0", 2.0, "[1.0, 3.0]", True)]])
    assert as_markdown(table).splitlines()[-1] == "| x/y | **2.0** [1.0, 3.0] |"


def test_a_folder_without_results_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit status of what cannot be used."""
    assert markdown_tables.main(["--results", str(tmp_path / "none")]) == 2
    assert "none" in capsys.readouterr().err
