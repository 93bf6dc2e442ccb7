"""One quick study on the twin, through the script that people call."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from exp.study.casefiles import Notes
from exp.study.results import CASES, Results, open_results
from exp.study.tables import read_table

PROJECT = Path(__file__).parents[2]
SCRIPT = PROJECT / "exp/end_to_end_exp_scripts/a30_main/main_experiment.sh"
RATES = (12.0, 24.0, 36.0)
SYSTEMS = ("llumnix_minus", "block", "astrolabe", "astrolabe_oracle")
TIMEOUT_S = 800.0


def start(out: Path) -> subprocess.Popen[str]:
    """The script, at rates from an idle fleet to one with too much to do."""
    options = ["--backend", "twin", "--quick", "--no-capacity", "--no-figures"]
    options += ["--scenarios", "equal_12", "--systems", ",".join(SYSTEMS), "--requests", "500"]
    options += ["--rates", ",".join(map(str, RATES)), "--out", str(out)]
    with (out / "log").open("a") as log:
        return subprocess.Popen(
            ["bash", str(SCRIPT), *options],
            env={**os.environ, "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a study was killed in its midst."""
    out = tmp_path_factory.mktemp("results")
    give_up_s = time.monotonic() + TIMEOUT_S
    with start(out) as begun:
        while len(list(out.glob(f"main/*/{CASES}/*.parquet"))) < 4 and time.monotonic() < give_up_s:
            assert begun.poll() is None, (out / "log").read_text()
            time.sleep(0.05)
        begun.send_signal(signal.SIGKILL)
    return out


@pytest.fixture(scope="module")
def kept(out: Path) -> dict[str, float]:
    """How long each run took that had ended by then."""
    files = out.glob(f"main/*/{CASES}/[!.]*.parquet")
    return {
        file.stem: msgspec.json.decode(read_table(file)[1]["astrolabe"], type=Notes).wall_s
        for file in files
    }


@pytest.fixture(scope="module")
def results(out: Path, kept: dict[str, float]) -> Results:
    """Of the same command, given again."""
    with start(out) as ended:
        printed, _ = ended.communicate(timeout=TIMEOUT_S)
    assert ended.returncode == 0, (out / "log").read_text()
    return open_results(Path(printed.splitlines()[-1]))


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_stopped(
    out: Path, kept: dict[str, float], results: Results
) -> None:
    """In the same folder, and the runs that had ended were not run again: their times are those of
    before."""
    assert [folder.name for folder in (out / "main").iterdir()] == [results.folder.name]
    walls_s = {one.case_id: one.wall_s for one in results.summary.cases}
    assert 4 <= len(kept) < len(walls_s)
    assert {key: round(wall_s, 3) for key, wall_s in kept.items()}.items() <= walls_s.items()


@pytest.mark.slow
def test_all_results_are_there(results: Results) -> None:
    """Every system at every rate with two seeds, and a row for each of its requests."""
    names = {file.name for file in results.folder.iterdir()}
    assert names == {"config.json", "requests.parquet", "summary.json", "commit.txt"}
    cases = [(one.system, one.rate_per_s, one.seed) for one in results.summary.cases]
    assert len(cases) == len(set(cases)) == len(SYSTEMS) * len(RATES) * 2
    assert results.requests(["seed"]).num_rows == 500 * len(cases)


@pytest.mark.slow
def test_latency_rises_with_load(results: Results) -> None:
    """The mean latency of each system at each rate, within two percent of noise."""
    for system in SYSTEMS:
        points = [one for one in results.summary.points if one.system == system]
        means_ms = [point.figures["all.e2e_ms.mean"].value for point in points]
        assert [point.rate_per_s for point in points] == list(RATES)
        assert all(later > 0.98 * earlier for earlier, later in pairwise(means_ms)), system
        assert means_ms[-1] > 1.1 * means_ms[0], system


@pytest.mark.slow
def test_knowing_lengths_is_at_least_as_good_as_estimating_them(results: Results) -> None:
    """The mean latency at each rate, within five percent; and predictions are better."""
    points = {(one.system, one.rate_per_s): one.figures for one in results.summary.points}
    for rate_per_s in RATES:
        estimated, known = (points[name, rate_per_s] for name in SYSTEMS[2:])
        assert known["all.e2e_ms.mean"].value <= 1.05 * estimated["all.e2e_ms.mean"].value
        error = "prediction.e2e_error"
        assert known[error].value < 0.5 * estimated[error].value
