"""All runs of a study: which one is next, until curves are complete and capacities are found."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from exp.study.capacity import CapacitySearch
from exp.study.case import Case
from exp.study.casefiles import CaseFiles, Notes
from exp.study.errors import CaseError, StudyError
from exp.study.execution import Execution
from exp.study.executors import Executor
from exp.study.figures import case_figures
from exp.study.plan import Scenario, Study, System
from exp.study.results import CaseSummary

RUNS_A_SEARCH = 8
"""About so many; for the progress bar."""


@dataclass(slots=True)
class _Pursuit:
    """A search that goes on, and what its runs are made of."""

    search: CapacitySearch
    scenario: Scenario
    system: System
    seed: int
    num_runs: int = 0

    @property
    def runs_left(self) -> int:
        """By guess."""
        return max(0, RUNS_A_SEARCH - self.num_runs - 1)


class Sweep:
    """Runs one case after another, or several at a time, and keeps what they came to."""

    def __init__(
        self, study: Study, seeds: Sequence[int], files: CaseFiles, progress: tqdm[Any]
    ) -> None:
        self._study, self._seeds, self._files, self._progress = study, seeds, files, progress
        self._cases: dict[str, Case] = {}
        self._summaries: dict[str, CaseSummary] = {}
        self._queue: deque[Case] = deque()
        self._running: dict[Future[Execution], Case] = {}
        self._waiting: dict[str, list[_Pursuit]] = {}
        self._points = [
            study.case(scenario, system, rate_per_s, seed)
            for scenario, system in study.pairs()
            for rate_per_s in scenario.rates_per_s
            for seed in seeds
        ]
        self._point_keys = {case.key for case in self._points}
        self.searches: dict[tuple[str, str], dict[int, CapacitySearch]] = {}
        """By scenario and system, then by seed."""

    def run(self, executor: Executor) -> None:
        """To the end.

        Raises:
            StudyError: nothing can be executed any more. Runs that have ended are kept.
        """
        for pursuit in self._pursuits():
            self._pursue(pursuit)
        for case in self._points:
            self._ask(case)
        self._fill(executor)
        while self._running:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in done:
                self._end(self._running.pop(future), future)
            self._fill(executor)

    def summaries(self) -> list[CaseSummary]:
        """Of all runs: scenarios, systems, rates and seeds in the study's order."""
        scenarios = [scenario.name for scenario in self._study.scenarios]
        systems = [system.name for system in self._study.systems]

        def order(one: CaseSummary) -> tuple[int, int, float, int]:
            return (
                scenarios.index(one.scenario),
                systems.index(one.system),
                one.rate_per_s,
                one.seed,
            )

        return sorted(self._summaries.values(), key=order)

    def finished(self) -> Iterator[tuple[Case, pa.Table, Notes]]:
        """Case, rows and notes of each run that did not fail, in the order of ``summaries``."""
        for summary in self.summaries():
            case = self._cases[summary.case_id]
            loaded = self._files.try_load(case) if summary.error is None else None
            if loaded is not None:
                yield case, *loaded

    def _pursuits(self) -> list[_Pursuit]:
        limits_ms = [limit_s * 1e3 for limit_s in self._study.capacity_ttft_s]
        found = []
        for scenario, system in self._study.pairs():
            if scenario.capacity_near_per_s is None or not limits_ms:
                continue
            by_seed = self.searches.setdefault((scenario.name, system.name), {})
            for seed in self._seeds:
                by_seed[seed] = CapacitySearch(
                    scenario.capacity_near_per_s, self._study.capacity_step, limits_ms
                )
                found.append(_Pursuit(by_seed[seed], scenario, system, seed))
        return found

    def _pursue(self, pursuit: _Pursuit) -> None:
        """Go on with a search until it waits for a run, or is done."""
        while (rate_per_s := pursuit.search.next_rate()) is not None:
            case = self._study.case(pursuit.scenario, pursuit.system, rate_per_s, pursuit.seed)
            # The longest chain of runs ends last: its next one goes first.
            self._ask(case, goes_first=pursuit.num_runs > 0)
            if case.key not in self._summaries:
                self._waiting.setdefault(case.key, []).append(pursuit)
                return
            self._tell(pursuit, self._summaries[case.key])

    def _tell(self, pursuit: _Pursuit, summary: CaseSummary) -> None:
        pursuit.num_runs += 1
        if summary.error is None:
            pursuit.search.add(summary.rate_per_s, summary.figures)
        else:
            pursuit.search.give_up()

    def _ask(self, case: Case, *, goes_first: bool = False) -> None:
        """See that a case is run, unless it is or has been."""
        if case.key in self._cases:
            return
        self._cases[case.key] = case
        if (loaded := self._files.try_load(case)) is not None:
            table, notes = loaded
            self._keep(case, case_figures(table) | notes.measured, notes.wall_s)
        elif goes_first:
            self._queue.appendleft(case)
        else:
            self._queue.append(case)

    def _fill(self, executor: Executor) -> None:
        """Keep every slot busy, and no more: what has not begun is not lost."""
        while self._queue and len(self._running) < executor.num_slots:
            case = self._queue.popleft()
            self._running[executor.submit(case)] = case
        searching = [one for pursuits in self._waiting.values() for one in pursuits]
        left = len(self._queue) + len(self._running) + sum(one.runs_left for one in searching)
        self._progress.total = self._progress.n + left

    def _end(self, case: Case, future: Future[Execution]) -> None:
        try:
            execution = future.result()
        except CaseError as error:
            self._progress.write(f"failed: {error}")
            self._keep(case, {}, 0.0, str(error))
        except BrokenProcessPool:
            raise StudyError(
                "a worker process has died, perhaps for want of memory (see --processes)"
            ) from None
        else:
            self._files.save(case, execution)
            figures = case_figures(execution.table) | execution.measured
            self._keep(case, figures, execution.wall_s)
        last = f"{case.scenario}, {case.system}, {case.rate_per_s:g}/s"
        self._progress.set_postfix_str(last, refresh=False)
        for pursuit in self._waiting.pop(case.key, ()):
            self._tell(pursuit, self._summaries[case.key])
            self._pursue(pursuit)

    def _keep(
        self, case: Case, figures: dict[str, float], wall_s: float, error: str | None = None
    ) -> None:
        self._summaries[case.key] = CaseSummary(
            case_id=case.key,
            scenario=case.scenario,
            system=case.system,
            rate_per_s=case.rate_per_s,
            seed=case.seed,
            is_point=case.key in self._point_keys,
            wall_s=round(wall_s, 3),
            figures=figures,
            error=error,
        )
        self._progress.update()
