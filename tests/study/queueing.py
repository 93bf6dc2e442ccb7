"""Cases played as an M/D/c queue: one server a unit, a second of service for each request."""

from __future__ import annotations

import heapq
import random
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from exp.study.case import Case, Fleet, UnitGroup, WorkloadSpec
from exp.study.errors import CaseError
from exp.study.execution import Execution
from exp.study.plan import Scenario, Study, System
from exp.study.records import RequestRecord
from exp.study.tables import to_table

SERVICE_S = 1.0


def play(case: Case) -> list[RequestRecord]:
    """First come, first served, by whichever server is free first."""
    rng = random.Random(case.seed)
    service_s = SERVICE_S * float(case.gateway.get("slowness", "1"))
    free_s = [0.0] * sum(group.count for group in case.fleet.groups)
    at_s, records = 0.0, []
    for index in range(case.workload.num_requests):
        at_s += rng.expovariate(1.0) / case.rate_per_s
        start_s = max(at_s, heapq.heappop(free_s))
        heapq.heappush(free_s, start_s + service_s)
        records.append(
            RequestRecord(
                request_id=str(index),
                at_s=at_s,
                request_class="short",
                outcome="ok",
                unit="unit-01",
                num_prompt_tokens=10,
                num_output_tokens=10,
                ttft_ms=(start_s - at_s) * 1e3 + 1.0,
                e2e_ms=(start_s + service_s - at_s) * 1e3,
                is_good=start_s - at_s < 1.0,
            )
        )
    return records


@dataclass
class QueueExecutor:
    """Executes at once; keeps what it was asked for, and breaks where it is told to."""

    num_slots: int = 2
    fails: set[float] = field(default_factory=set)
    """Rates."""
    interrupted_after: int | None = None
    breaks_at: int | None = None
    executed: list[Case] = field(default_factory=list)

    def submit(self, case: Case) -> Future[Execution]:
        if len(self.executed) == self.interrupted_after:
            raise KeyboardInterrupt
        self.executed.append(case)
        future: Future[Execution] = Future()
        if len(self.executed) == self.breaks_at:
            future.set_exception(BrokenProcessPool("a worker has died"))
        elif case.rate_per_s in self.fails:
            future.set_exception(CaseError(f"no luck at {case.rate_per_s:g}/s"))
        else:
            future.set_result(Execution(to_table(play(case)), 0.5, {"cpu.gateway": 0.25}))
        return future

    def close(self) -> None:
        pass


def queue_study(
    *, rates_per_s: tuple[float, ...] = (), capacity_near_per_s: float | None = None
) -> Study:
    """Two systems, one a quarter slower than the other, with ten servers."""
    scenario = Scenario(
        name="queue",
        label="10 servers",
        fleet=Fleet(groups=(UnitGroup(gpu="A30", count=10),)),
        workload=WorkloadSpec(source="synthetic", num_requests=400),
        rates_per_s=rates_per_s,
        capacity_near_per_s=capacity_near_per_s,
    )
    return Study(
        name="queue",
        title="A queue",
        repeats="Erlang",
        scenarios=(scenario,),
        systems=(
            System(name="fast", label="fast", gateway={}),
            System(name="slow", label="slow", gateway={"slowness": "1.25"}),
        ),
        num_seeds=2,
        capacity_ttft_s=(0.4, 0.5),
        baseline="slow",
    )
