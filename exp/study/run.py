"""Runs a study from its plan to its folder of results."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
from tqdm import tqdm

from exp.study import summary
from exp.study.case import Case
from exp.study.casefiles import CaseFiles
from exp.study.code_version import CodeVersion, code_version
from exp.study.execution import Backend
from exp.study.executors import Executor
from exp.study.folders import study_folder
from exp.study.plan import Study
from exp.study.results import (
    CASES,
    COMMIT,
    CONFIG,
    REQUESTS,
    SUMMARY,
    StudyConfig,
    Summary,
    write_json,
    write_requests,
    write_text,
)
from exp.study.sweep import Sweep


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a study is run."""

    backend: Backend
    seeds: Sequence[int]
    is_quick: bool
    out: Path
    takes_other_code: bool = False
    command: Sequence[str] = ()


def run_study(study: Study, options: Options, executor: Executor) -> tuple[Path, Summary]:
    """Run what is still to be run, and write the results; their folder and the summary.

    Raises:
        StudyError: it could not go on; the same call goes on where it stopped.
    """
    backend = options.backend.name
    with study_folder(options.out, study.name, backend, is_quick=options.is_quick) as folder:
        (folder / SUMMARY).unlink(missing_ok=True)
        write_json(folder / CONFIG, _config(study, options))
        print(f"{study.title}: results go to {folder}", file=sys.stderr)
        code = code_version()
        write_text(folder / COMMIT, code.text + "\n")
        (folder / CASES).mkdir(exist_ok=True)
        files = CaseFiles(folder / CASES, code, options.takes_other_code)
        started_s = time.perf_counter()
        with _progress(study) as progress:
            sweep = Sweep(study, options.seeds, files, progress)
            sweep.run(executor)
        result = _summary(study, sweep, time.perf_counter() - started_s)
        _write(folder, sweep, result, code)
        if not any(case.error for case in result.cases):
            files.remove()
    return folder, result


def _progress(study: Study) -> tqdm[Any]:
    """On a terminal a bar; in a log a line every ten seconds."""
    is_terminal = sys.stderr.isatty()
    return tqdm(
        desc=study.name,
        unit="run",
        dynamic_ncols=is_terminal,
        mininterval=0.1 if is_terminal else 10.0,
        smoothing=0.05,
    )


def _config(study: Study, options: Options) -> StudyConfig:
    return StudyConfig(
        study=study,
        backend=options.backend.name,
        is_quick=options.is_quick,
        seeds=list(options.seeds),
        command=list(options.command),
        started_at=_now(),
    )


def _summary(study: Study, sweep: Sweep, wall_s: float) -> Summary:
    cases = sweep.summaries()
    return Summary(
        cases=cases,
        points=summary.points(cases),
        capacities=summary.capacities(study, sweep.searches),
        wall_s=round(wall_s, 1),
        ended_at=_now(),
    )


def _write(folder: Path, sweep: Sweep, result: Summary, code: CodeVersion) -> None:
    num_runs: Counter[str] = Counter()

    def rows() -> Iterator[tuple[Case, pa.Table]]:
        for case, table, notes in sweep.finished():
            num_runs[notes.code_text] += 1
            yield case, table

    write_requests(folder / REQUESTS, rows())
    versions = [f"{number} runs: {text}" for text, number in num_runs.most_common()]
    write_text(folder / COMMIT, "\n".join(versions or [code.text]) + "\n")
    write_json(folder / SUMMARY, result)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
