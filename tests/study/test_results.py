"""Folders of results: written, found again, read, and refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from exp.study.errors import ResultError
from exp.study.execution import Backend
from exp.study.folders import study_folder
from exp.study.results import CONFIG, SUMMARY, open_results
from exp.study.run import Options, run_study
from exp.study.tables import read_table, to_records, to_table, write_table
from tests.study.queueing import QueueExecutor, play, queue_study

STUDY = queue_study(rates_per_s=(4.0, 9.0))


def options(out: Path) -> Options:
    return Options(backend=Backend("twin"), seeds=(1, 2), is_quick=False, out=out)


def test_a_study_leaves_its_four_files(tmp_path: Path) -> None:
    """Configuration, requests, summary and version of the code; the runs' own files are gone."""
    executor = QueueExecutor()
    folder, written = run_study(STUDY, options(tmp_path), executor)
    assert folder.parent == tmp_path / "queue"
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.json", "requests.parquet", "summary.json", "commit.txt"}
    results = open_results(folder)
    assert results.summary == written
    assert results.config.study == STUDY
    assert results.commit.startswith("8 runs: ")
    assert open_results(tmp_path / "queue").folder == folder


def test_requests_are_those_of_the_runs_and_name_their_case(tmp_path: Path) -> None:
    """All rows, or those of some runs, as the backend gave them."""
    executor = QueueExecutor()
    folder, written = run_study(STUDY, options(tmp_path), executor)
    results = open_results(folder)
    assert results.requests(["seed"]).num_rows == 8 * 400
    case = executor.executed[3]
    rows = results.requests(case_ids=[case.key])
    assert to_records(rows) == play(case)
    assert set(rows["case_id"].to_pylist()) == {case.key}
    assert set(rows["system"].to_pylist()) == {case.system}
    assert {one.case_id for one in written.cases} == {one.key for one in executor.executed}


def test_failed_runs_leave_the_study_to_be_gone_on_with(tmp_path: Path) -> None:
    """There are results without them, and the same call tries only them again."""
    executor = QueueExecutor(fails={9.0})
    first, written = run_study(STUDY, options(tmp_path), executor)
    assert [case.error is None for case in written.cases] == [True, True, False, False] * 2
    assert open_results(first).requests(["seed"]).num_rows == 4 * 400
    executor = QueueExecutor()
    second, complete = run_study(STUDY, options(tmp_path), executor)
    assert second == first
    assert {case.rate_per_s for case in executor.executed} == {9.0}
    assert not any(case.error for case in complete.cases)
    assert run_study(STUDY, options(tmp_path), executor)[0] != first


def test_only_an_unfinished_folder_of_the_same_kind_is_gone_on_with(tmp_path: Path) -> None:
    """Not one that another process works in, of another backend, or of a quick look."""
    executor = QueueExecutor(interrupted_after=3)
    with pytest.raises(KeyboardInterrupt):
        run_study(STUDY, options(tmp_path), executor)
    (begun,) = (tmp_path / "queue").iterdir()

    def folder(backend: str, *, is_quick: bool) -> Path:
        with study_folder(tmp_path, "queue", backend, is_quick=is_quick) as found:
            return found

    assert folder("twin", is_quick=False) == begun
    assert folder("emulated", is_quick=False) != begun
    assert folder("twin", is_quick=True) != begun
    with study_folder(tmp_path, "queue", "twin", is_quick=False) as held:
        assert held == begun
        assert folder("twin", is_quick=False) != begun


def test_folders_that_hold_no_results_are_refused_by_name(tmp_path: Path) -> None:
    """None, empty, half done, damaged: each is told apart."""
    executor = QueueExecutor()
    with pytest.raises(ResultError, match="nowhere: no such folder"):
        open_results(tmp_path / "nowhere")
    with pytest.raises(ResultError, match="holds no results"):
        open_results(tmp_path)
    folder, _ = run_study(STUDY, options(tmp_path), executor)
    whole = (folder / SUMMARY).read_bytes()
    (folder / SUMMARY).write_bytes(whole[:200])
    with pytest.raises(ResultError, match=r"summary\.json"):
        open_results(folder)
    (folder / SUMMARY).unlink()
    with pytest.raises(ResultError, match="runs or was interrupted"):
        open_results(folder)
    (folder / SUMMARY).write_bytes(whole)
    (folder / CONFIG).write_text(
        (folder / CONFIG).read_text().replace('"format": 1', '"format": 9')
    )
    with pytest.raises(ResultError, match="format 9"):
        open_results(folder)


def test_records_survive_parquet(tmp_path: Path) -> None:
    """Every field, None included; notes come along, and another file is refused."""
    case = STUDY.case(STUDY.scenarios[0], STUDY.systems[0], 4.0, 1)
    records = play(case)
    records[0].predicted_e2e_ms = 12.5
    file = tmp_path / "one.parquet"
    write_table(to_table(records), file, {"note": "x"})
    table, notes = read_table(file)
    assert to_records(table) == records
    assert notes["note"] == "x"
    write_table(table.drop_columns(["at_s"]), file)
    with pytest.raises(ResultError, match="lacks the columns at_s"):
        read_table(file)
