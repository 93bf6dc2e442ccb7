"""Sweeps on an M/D/c queue: what is run, what is not run again, and what it comes to."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tqdm import tqdm

from exp.study import summary
from exp.study.casefiles import CaseFiles
from exp.study.code_version import CodeVersion
from exp.study.errors import StudyError
from exp.study.plan import Study
from exp.study.sweep import Sweep
from tests.study.queueing import QueueExecutor, queue_study

CODE = CodeVersion("code-1", "commit 1")


def sweep(
    study: Study, folder: Path, executor: QueueExecutor, code: CodeVersion = CODE, **options: bool
) -> Sweep:
    folder.mkdir(exist_ok=True)
    made = Sweep(study, (1, 2), CaseFiles(folder, code, **options), tqdm(disable=True))
    made.run(executor)
    return made


def test_runs_every_system_at_every_rate_with_every_seed(tmp_path: Path) -> None:
    """Each once; the medians over seeds lie within their intervals, and latency rises with load."""
    executor = QueueExecutor()
    ended = sweep(queue_study(rates_per_s=(4.0, 9.0)), tmp_path, executor)
    assert len(executor.executed) == len({case.key for case in executor.executed}) == 8
    points = summary.points(ended.summaries())
    assert [(one.system, one.rate_per_s, one.seeds) for one in points] == [
        ("fast", 4.0, [1, 2]),
        ("fast", 9.0, [1, 2]),
        ("slow", 4.0, [1, 2]),
        ("slow", 9.0, [1, 2]),
    ]
    waits = [one.figures["all.ttft_ms.p99"] for one in points]
    assert all(one.low <= one.value <= one.high for one in waits)
    assert waits[0].value < waits[1].value < waits[3].value
    assert points[0].figures["cpu.gateway"].value == 0.25


def test_capacities_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """With service a quarter slower, all waits are a quarter longer at four fifths of the rate."""
    study = queue_study(capacity_near_per_s=8.0)
    ended = sweep(study, tmp_path, QueueExecutor())
    capacities = summary.capacities(study, ended.searches)
    found = {(one.system, one.ttft_limit_s): one for one in capacities}
    fast, slow = found["fast", 0.4].per_s_by_seed, found["slow", 0.5].per_s_by_seed
    for seed in (1, 2):
        fast_per_s, slow_per_s = fast[seed], slow[seed]
        assert fast_per_s is not None
        assert slow_per_s is not None
        assert fast_per_s / slow_per_s == pytest.approx(1.25, rel=0.025)
    more, less = found["fast", 0.5], found["fast", 0.4]
    assert more.per_s is not None
    assert less.per_s is not None
    assert more.over_baseline is not None
    assert less.per_s.value < more.per_s.value
    assert more.over_baseline.low <= more.over_baseline.value <= more.over_baseline.high
    assert more.over_baseline.value > 1.2
    itself = found["slow", 0.5].over_baseline
    assert itself is not None
    assert (itself.low, itself.high) == (1.0, 1.0)


def test_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    """What had ended is not run again, and the outcome is that of a study never interrupted."""
    study = queue_study(rates_per_s=(4.0, 9.0), capacity_near_per_s=8.0)
    first = QueueExecutor(interrupted_after=9)
    with pytest.raises(KeyboardInterrupt):
        sweep(study, tmp_path / "a", first)
    kept = {file.stem for file in (tmp_path / "a").iterdir()}
    second, whole = QueueExecutor(), QueueExecutor()
    ended = sweep(study, tmp_path / "a", second)
    assert len(kept) >= 7
    assert not kept & {case.key for case in second.executed}
    undisturbed = sweep(study, tmp_path / "b", whole)
    assert len(second.executed) == len(whole.executed) - len(kept)
    assert ended.summaries() == undisturbed.summaries()


def test_a_changed_case_and_one_of_other_code_are_run_anew(tmp_path: Path) -> None:
    """Unless other code is said to do."""
    study = queue_study(rates_per_s=(4.0,))
    sweep(study, tmp_path, QueueExecutor())
    fast, slow = study.systems
    slower = msgspec.structs.replace(slow, gateway={"slowness": "1.5"})
    changed, other, unchanged = QueueExecutor(), QueueExecutor(), QueueExecutor()
    sweep(msgspec.structs.replace(study, systems=(fast, slower)), tmp_path, changed)
    assert [case.gateway for case in changed.executed] == [slower.gateway] * 2
    newer = CodeVersion("code-2", "commit 2")
    sweep(study, tmp_path, unchanged, newer, takes_other_code=True)
    assert unchanged.executed == []
    sweep(study, tmp_path, other, newer)
    assert len(other.executed) == 4


def test_a_damaged_file_is_run_anew(tmp_path: Path) -> None:
    """As after a crash of the machine."""
    study = queue_study(rates_per_s=(4.0,))
    sweep(study, tmp_path, QueueExecutor())
    damaged = next(tmp_path.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    again = QueueExecutor()
    sweep(study, tmp_path, again)
    assert [case.key for case in again.executed] == [damaged.stem]


def test_a_failed_run_is_told_and_others_go_on(tmp_path: Path) -> None:
    """It has no figures, its point has the other rates' seeds only, and it is tried again."""
    study = queue_study(rates_per_s=(4.0, 9.0), capacity_near_per_s=8.0)
    ended = sweep(study, tmp_path, QueueExecutor(fails={9.0, 8.0}))
    failed = [one for one in ended.summaries() if one.error]
    assert {one.rate_per_s for one in failed} == {8.0, 9.0}
    assert {one.rate_per_s for one in summary.points(ended.summaries())} == {4.0}
    assert all(one.per_s is None for one in summary.capacities(study, ended.searches))
    again = QueueExecutor()
    sweep(study, tmp_path, again)
    assert {8.0, 9.0} < {case.rate_per_s for case in again.executed}
    assert 4.0 not in {case.rate_per_s for case in again.executed}


def test_a_lost_worker_ends_the_study_which_can_go_on(tmp_path: Path) -> None:
    """It is told what may have happened; what had ended before is kept."""
    study = queue_study(rates_per_s=(4.0, 9.0))
    with pytest.raises(StudyError, match="a worker process has died"):
        sweep(study, tmp_path, QueueExecutor(num_slots=1, breaks_at=3))
    again = QueueExecutor()
    sweep(study, tmp_path, again)
    assert len(again.executed) == 8 - 2
