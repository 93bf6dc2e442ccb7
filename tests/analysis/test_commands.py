"""The commands: where figures go, and what is said of results that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analysis import arrivals_plot, experiment_plot, make_report, pools_plot
from exp.study.results import COMMIT, CONFIG, REQUESTS, SUMMARY, Summary, read_json, write_json
from tests.analysis.small_studies import results_of, scenario, study


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a study with curves."""
    return results_of(study(scenario()), tmp_path_factory.mktemp("results"))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "broken"))


def test_figures_go_beside_the_results_or_where_they_are_told_to(
    folder: Path, tmp_path: Path
) -> None:
    """As PNG and PDF; the newest folder of a study is found by the study's."""
    assert experiment_plot.main(["--results", str(folder.parent)]) == 0
    names = {"qps.png", "qps.pdf", "cdf.png", "cdf.pdf"}
    assert {file.name for file in (folder / "figures").iterdir()} == names
    assert experiment_plot.main(["--results", str(folder), "--output-dir", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == names
    assert (tmp_path / "qps.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("option", ["--experiments-dir", "--data-dir"])
def test_results_have_the_names_of_the_paper_s_scripts_too(
    folder: Path, tmp_path: Path, option: str
) -> None:
    """Old command lines go on working."""
    options = [option, str(folder), "--output-dir", str(tmp_path), "--system-name", "Sextant"]
    assert pools_plot.main(options) == 0
    assert (tmp_path / "pools.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("command", [experiment_plot.main, make_report.main])
def test_results_that_cannot_be_used_are_named(
    broken: Path, capsys: pytest.CaptureFixture[str], command: type
) -> None:
    """No folder, an empty one, half a study, and files that are damaged or missing."""

    def said(folder: Path) -> str:
        assert command(["--results", str(folder)]) == 2
        return capsys.readouterr().err

    assert f"{broken / 'none'}: no such folder" in said(broken / "none")
    (broken / "empty").mkdir()
    assert "holds no results" in said(broken / "empty")
    (broken / REQUESTS).write_bytes(b"PAR1, or so")
    assert f"{broken / REQUESTS}: cannot be read" in said(broken)
    (broken / REQUESTS).unlink()
    assert str(broken / REQUESTS) in said(broken)
    (broken / SUMMARY).write_text('{"cases": [')
    assert str(broken / SUMMARY) in said(broken)
    (broken / SUMMARY).unlink()
    assert "runs or was interrupted" in said(broken)
    (broken / CONFIG).write_text("[]")
    (broken / SUMMARY).write_text("{}")
    assert str(broken / CONFIG) in said(broken)


def test_a_rate_that_was_not_run_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With those that were."""
    options = ["--results", str(folder), "--output-dir", str(tmp_path), "--rate", "9"]
    assert experiment_plot.main(options) == 2
    assert "no runs at the rate 9/s in equal (rates of all: 1, 2)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_study_of_failed_runs_says_what_they_failed_of(
    broken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And not that there is nothing to see; the report tells it, too."""
    summary = read_json(broken / SUMMARY, Summary)
    for case in summary.cases:
        case.error, case.figures = "no luck", {}
    summary.points.clear()
    write_json(broken / SUMMARY, summary)
    assert experiment_plot.main(["--results", str(broken)]) == 2
    assert "all 12 runs failed: no luck" in capsys.readouterr().err
    assert make_report.main(["--results", str(broken)]) == 0
    assert "12 of 12 runs failed" in (broken / "report.html").read_text(encoding="utf-8")


def test_a_missing_version_is_no_obstacle(broken: Path) -> None:
    """Results are drawn without it."""
    (broken / COMMIT).unlink()
    assert make_report.main(["--results", str(broken)]) == 0
    assert "no version was recorded" in (broken / "report.html").read_text(encoding="utf-8")


def test_a_damaged_trace_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands that draw one file say which."""
    (tmp_path / "trace.jsonl").write_text("nonsense\n")
    assert arrivals_plot.main([str(tmp_path / "trace.jsonl")]) == 2
    assert "trace.jsonl" in capsys.readouterr().err
