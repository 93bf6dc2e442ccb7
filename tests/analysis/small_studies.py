"""Studies that take a moment: units serve one request after the other, as fast as their GPU."""

from __future__ import annotations

import random
from concurrent.futures import Future
from pathlib import Path
from unittest.mock import patch

from analysis.view import View
from exp.study import statistics
from exp.study.case import Case, Fleet, UnitGroup, WorkloadSpec
from exp.study.execution import Backend, Execution
from exp.study.plan import Scenario, Study, System
from exp.study.records import RequestRecord
from exp.study.results import open_results
from exp.study.run import Options, run_study
from exp.study.tables import to_table

SEEDS = (1, 2, 3)
SPEEDS = {"A30": 1.0, "A100-40G": 3.0}
ASTROLABE = System(name="astrolabe", label="{system}", gateway={"policy": "soonest"})
ROUND_ROBIN = System(name="round_robin", label="round robin", gateway={"policy": "round_robin"})


def play(case: Case) -> list[RequestRecord]:
    """Every fourth request is long and takes three times the work of a short one, about a second.

    ``soonest`` goes to the unit that will be done first, among ``k`` if the gateway has that.
    """
    rng = random.Random(case.seed)
    gpus = [group.gpu for group in case.fleet.groups for _ in range(group.count)]
    free_s = [0.0] * len(gpus)
    at_s, records = 0.0, []
    for index in range(case.workload.num_requests):
        at_s += rng.expovariate(1.0) / case.rate_per_s
        is_long = index % 4 == 3
        work_s = rng.uniform(0.5, 1.5) * (3 if is_long else 1) * (1 + case.twin.step_error)
        asked = rng.sample(range(len(gpus)), int(case.gateway.get("k", len(gpus))))
        ends_s = {one: max(at_s, free_s[one]) + work_s / SPEEDS[gpus[one]] for one in asked}
        is_soonest = case.gateway["policy"] == "soonest"
        unit = min(asked, key=ends_s.__getitem__) if is_soonest else index % len(gpus)
        start_s = max(at_s, free_s[unit])
        free_s[unit] = start_s + work_s / SPEEDS[gpus[unit]]
        records.append(
            RequestRecord(
                request_id=str(index),
                at_s=at_s,
                request_class="long" if is_long else "short",
                outcome="ok",
                unit=f"unit-{unit + 1:02d}",
                num_prompt_tokens=100,
                num_output_tokens=50,
                waited_ms=0.0,
                decision_ms=1.0 + len(asked),
                ttft_ms=(start_s - at_s) * 1e3 + 1,
                tpot_ms=20.0,
                e2e_ms=(free_s[unit] - at_s) * 1e3,
                num_migrations=int(case.twin.migration != "none" and index % 10 == 0),
                is_good=start_s - at_s < 1,
            )
        )
    return records


class _Here:
    """Executes in this process."""

    num_slots = 1

    def __init__(self, measured: dict[str, float]) -> None:
        self._measured = measured

    def submit(self, case: Case) -> Future[Execution]:
        future: Future[Execution] = Future()
        future.set_result(Execution(to_table(play(case)), 0.5, self._measured))
        return future

    def close(self) -> None:
        pass


def scenario(
    name: str = "equal",
    fleet: Fleet | None = None,
    rates_per_s: tuple[float, ...] = (1.0, 2.0),
    capacity_near_per_s: float | None = None,
    variables: dict[str, float] | None = None,
) -> Scenario:
    """Four equal units, if nothing else is said."""
    return Scenario(
        name=name,
        label=f"the {name} of {{system}}",
        fleet=fleet or units(A30=4),
        workload=WorkloadSpec(source="synthetic", num_requests=120),
        rates_per_s=rates_per_s,
        capacity_near_per_s=capacity_near_per_s,
        variables=variables or {},
    )


def units(**counts: int) -> Fleet:
    """So many of each GPU; ``A100`` is one of 40 GB."""
    names = {"A100": "A100-40G"}
    groups = [UnitGroup(gpu=names.get(gpu, gpu), count=count) for gpu, count in counts.items()]
    return Fleet(groups=tuple(groups))


def study(
    *scenarios: Scenario,
    systems: tuple[System, ...] = (ROUND_ROBIN, ASTROLABE),
    plots: tuple[str, ...] = (),
) -> Study:
    """Two systems, of which round robin is the baseline."""
    return Study(
        name="small",
        title="A <small> study",
        repeats="nothing",
        scenarios=scenarios,
        systems=systems,
        num_seeds=len(SEEDS),
        capacity_ttft_s=(3.0, 10.0),
        capacity_step=1.1,
        baseline="round_robin",
        plots=plots,
    )


def results_of(one: Study, folder: Path, **measured: float) -> Path:
    """Run it; the folder of its results. ``cpu_gateway=1.5`` is the figure ``cpu.gateway``."""
    figures = {name.replace("_", ".", 1): value for name, value in measured.items()}
    options = Options(backend=Backend("twin"), seeds=SEEDS, is_quick=True, out=folder)
    with patch.object(statistics, "RESAMPLES", 200):  # intervals need not be exact
        return run_study(one, options, _Here(figures))[0]


def view_of(one: Study, folder: Path, rate_per_s: float | None = None, **measured: float) -> View:
    """Run it; its results, under the name of Sextant."""
    return View(open_results(results_of(one, folder, **measured)), "Sextant", rate_per_s)
