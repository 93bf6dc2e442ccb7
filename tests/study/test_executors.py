"""Runs in processes of their own: what comes back, and what ends when."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from benchmarks.processes import free_port
from exp.study.case import Case, Fleet, UnitGroup, WorkloadSpec
from exp.study.cpu import CpuWatch
from exp.study.errors import CaseError, PlanError
from exp.study.execution import Backend, execute
from exp.study.executors import LocalExecutor, RayExecutor
from exp.study.records import RequestRecord
from exp.study.tables import to_records
from tests.deploy.waiting import wait_until

TIMEOUT_S = 600.0
CASE = Case(
    scenario="small",
    system="round_robin",
    gateway={"policy": "round_robin", "pools": "none", "stealing": "off"},
    fleet=Fleet(groups=(UnitGroup(gpu="A30", count=2),)),
    workload=WorkloadSpec(source="synthetic", num_requests=40),
    rate_per_s=4.0,
    seed=1,
)


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    """Two workers that play twins."""
    with closing(LocalExecutor(Backend("twin"), 2)) as executor:
        yield executor


def test_a_run_elsewhere_is_the_same_as_here(executor: LocalExecutor) -> None:
    """Each request answered, equal to the last digit, and the run's own time told."""
    futures = [executor.submit(CASE) for _ in range(2)]
    first, second = (future.result(TIMEOUT_S) for future in futures)
    here = execute(CASE, Backend("twin"))
    times = ["ttft_ms", "e2e_ms", "unit", "outcome"]
    assert first.table.select(times) == second.table.select(times) == here.table.select(times)
    assert {record.outcome for record in to_records(first.table)} == {"ok"}
    assert first.wall_s > 0


def test_a_run_that_fails_says_which_and_why(executor: LocalExecutor) -> None:
    """And the worker goes on with the next one."""
    unknown = msgspec.structs.replace(CASE, fleet=Fleet(groups=(UnitGroup(gpu="A31", count=1),)))
    with pytest.raises(CaseError, match=r"small, round_robin, 4/s, seed 1: .*unknown GPU 'A31'"):
        executor.submit(unknown).result(TIMEOUT_S)
    assert executor.submit(CASE).result(TIMEOUT_S).table.num_rows == 40


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_run_that_takes_too_long_is_ended() -> None:
    """By its deadline, in the middle of whatever it does."""
    long = msgspec.structs.replace(
        CASE, workload=WorkloadSpec(source="synthetic", num_requests=50_000)
    )
    with pytest.raises(
        CaseError, match=r"small, round_robin, 4/s, seed 1: took longer than 0\.5 s"
    ):
        execute(long, Backend("twin", case_timeout_s=0.5))
    gc.collect()  # a coroutine between being made and being handed over, if it came just then


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_deadline_that_comes_in_a_destructor_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops exceptions there; the run is told once more, before it has ended by itself."""

    class Slow:
        def __del__(self) -> None:
            time.sleep(0.3)

    def run_case(case: Case) -> list[RequestRecord]:
        Slow()  # gone at once
        time.sleep(TIMEOUT_S)
        return []

    monkeypatch.setattr("exp.twin.run.run_case", run_case)
    monkeypatch.setattr("exp.study.execution.AGAIN_S", 0.5)
    with pytest.raises(CaseError, match=r"took longer than 0\.1 s"):
        execute(CASE, Backend("twin", case_timeout_s=0.1))


def test_the_cores_of_gateways_and_sidecars_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of processes below this one that run these modules; a busy one uses a core, or what there is
    of one."""
    monkeypatch.setattr("exp.study.cpu.INTERVAL_S", 0.25)
    module = tmp_path / "predictor.py"
    module.write_text("import time\nend = time.time() + 600\nwhile time.time() < end: pass\n")
    with CpuWatch() as watch:
        busy = subprocess.Popen([sys.executable, "-m", "predictor"], cwd=tmp_path)
        try:
            if Path("/proc/self/stat").exists():
                wait_until(lambda: bool(watch.cores_used()))
            time.sleep(1.0)
        finally:
            os.kill(busy.pid, signal.SIGKILL)
            busy.wait()
    cores = watch.cores_used()
    if Path("/proc/self/stat").exists():
        assert set(cores) == {"cpu.sidecars"}
        assert 0.01 < cores["cpu.sidecars"] < 1.2


def test_a_worker_that_is_killed_is_noticed() -> None:
    """As when the machine has run out of memory."""
    with closing(LocalExecutor(Backend("twin"), 1)) as executor:
        future = executor.submit(CASE)
        (worker,) = executor.worker_pids
        os.kill(worker, signal.SIGKILL)
        with pytest.raises(BrokenProcessPool):
            future.result(TIMEOUT_S)


def test_a_ray_that_cannot_be_used_is_refused_at_once() -> None:
    """Whether it is not installed or nobody answers at its address."""
    with pytest.raises(PlanError, match="--ray"):
        RayExecutor(Backend("twin"), f"127.0.0.1:{free_port()}", None)
