"""What a study leaves in ``results/<study>/<time>/``, to be read with ``open_results``.

config.json       ``StudyConfig``: what was asked for, written before the first run
requests.parquet  a row a request: the case's id, scenario, system, rate_per_s and seed, then the
                  columns of ``RequestRecord``
summary.json      ``Summary``: figures of each run, of each point of a curve, and capacities.
                  Written last: a folder without it is one of a study that runs or was interrupted
commit.txt        the versions of the code that ran, and on how many runs each
cases/            a Parquet file for each finished run (``casefiles.py``), as long as some are
                  missing: while the study runs, after an interruption, and if runs have failed
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from exp.study.case import Case
from exp.study.errors import ResultError
from exp.study.plan import Study
from exp.study.tables import SCHEMA

FORMAT = 1
CONFIG, REQUESTS, SUMMARY, COMMIT = "config.json", "requests.parquet", "summary.json", "commit.txt"
CASES = "cases"
_NAME = pa.dictionary(pa.int32(), pa.string())
REQUEST_COLUMNS = pa.schema(
    [
        pa.field("case_id", _NAME, nullable=False),
        pa.field("scenario", _NAME, nullable=False),
        pa.field("system", _NAME, nullable=False),
        pa.field("rate_per_s", pa.float64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        *SCHEMA,
    ]
)
"""Of ``requests.parquet``."""


class StudyConfig(msgspec.Struct, kw_only=True):
    """``config.json``."""

    format: int = FORMAT
    study: Study
    """As run: rates, requests and the like are those of ``--quick`` or the command line."""
    backend: str
    """``twin``, ``emulated`` or ``cluster``."""
    is_quick: bool
    seeds: list[int]
    command: list[str]
    """What was typed."""
    started_at: str
    """UTC, ISO 8601."""


class Interval(msgspec.Struct, kw_only=True):
    """A value over seeds, and its 95 % bootstrap confidence interval."""

    value: float
    low: float
    high: float


class CaseSummary(msgspec.Struct, kw_only=True):
    """One run."""

    case_id: str
    """``Case.key``; in ``requests.parquet``, too."""
    scenario: str
    system: str
    rate_per_s: float
    seed: int
    is_point: bool
    """It belongs to a curve; others were run in the search for a capacity only."""
    wall_s: float = 0.0
    """How long the run took on this machine."""
    figures: dict[str, float] = {}
    """By the names in ``exp/study/figures.py``, such as ``all.ttft_ms.p99``."""
    error: str | None = None
    """Why there are no figures."""


class Point(msgspec.Struct, kw_only=True):
    """One rate of one system in one scenario."""

    scenario: str
    system: str
    rate_per_s: float
    seeds: list[int]
    """Of the runs that did not fail."""
    figures: dict[str, Interval]
    """Medians over seeds, by the same names; those that all seeds have."""


class Capacity(msgspec.Struct, kw_only=True):
    """The highest rate that a system keeps up with: the 99th percentile of TTFT within the limit,
    and 99 % of requests answered."""

    scenario: str
    system: str
    ttft_limit_s: float
    per_s_by_seed: dict[int, float | None]
    """Requests per second; None: not even the lowest rate tried was kept, or a run failed."""
    per_s: Interval | None = None
    """The mean over seeds; None unless every seed has one."""
    over_baseline: Interval | None = None
    """The mean of the seeds' ratios to the study's baseline."""


class Summary(msgspec.Struct, kw_only=True):
    """``summary.json``."""

    format: int = FORMAT
    cases: list[CaseSummary]
    points: list[Point]
    capacities: list[Capacity]
    wall_s: float
    """How long the study took, without the time before an interruption."""
    ended_at: str


@dataclass(frozen=True, slots=True)
class Results:
    """A finished study's folder."""

    folder: Path
    config: StudyConfig
    summary: Summary
    commit: str

    def requests(
        self, columns: Sequence[str] | None = None, case_ids: Iterable[str] | None = None
    ) -> pa.Table:
        """Rows of ``requests.parquet``, all or those of these runs.

        Raises:
            ResultError: the file is missing or damaged, or has no such column.
        """
        file = self.folder / REQUESTS
        filters = None if case_ids is None else [("case_id", "in", sorted(case_ids))]
        try:
            return pq.read_table(file, columns=columns, filters=filters)
        except (OSError, pa.ArrowException) as error:
            raise ResultError(f"{file}: cannot be read: {error}") from None


def open_results(folder: Path) -> Results:
    """A study's folder, or the newest finished one of those in it.

    Raises:
        ResultError: there is none, or it is damaged or not finished.
    """
    if not folder.is_dir():
        raise ResultError(f"{folder}: no such folder")
    if not (folder / CONFIG).exists():
        finished = [file.parent for file in folder.glob(f"*/{SUMMARY}")]
        if not finished:
            raise ResultError(f"{folder}: holds no results of a finished study (no {SUMMARY})")
        folder = max(finished)
    if not (folder / SUMMARY).exists():
        raise ResultError(
            f"{folder}: the study runs or was interrupted; the same command goes on with it"
        )
    commit = folder / COMMIT
    return Results(
        folder,
        read_json(folder / CONFIG, StudyConfig),
        read_json(folder / SUMMARY, Summary),
        commit.read_text().strip() if commit.exists() else "",
    )


Document = TypeVar("Document", StudyConfig, Summary)


def read_json(file: Path, kind: type[Document]) -> Document:
    """One of the two documents.

    Raises:
        ResultError: missing, damaged, or of a later format.
    """
    try:
        document = msgspec.json.decode(file.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise ResultError(f"{file}: {error}") from None
    if document.format != FORMAT:
        raise ResultError(f"{file}: format {document.format}, but only {FORMAT} can be read")
    return document


def write_json(file: Path, document: StudyConfig | Summary) -> None:
    """Whole or not at all, and indented for people."""
    write_text(file, msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")


def write_text(file: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    unfinished.write_text(text)
    unfinished.replace(file)


def write_requests(file: Path, runs: Iterable[tuple[Case, pa.Table]]) -> None:
    """``requests.parquet``, run by run, so that only one is in memory."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    with pq.ParquetWriter(unfinished, REQUEST_COLUMNS, compression="zstd") as writer:
        for case, table in runs:
            same = (case.key, case.scenario, case.system, case.rate_per_s, case.seed)
            constant = [pa.repeat(value, len(table)) for value in same]
            columns = [*constant, *table.select(SCHEMA.names).columns]
            columns = [
                column.cast(field.type) if column.type == field.type else _as(column, field.type)
                for column, field in zip(columns, REQUEST_COLUMNS, strict=True)
            ]
            writer.write_table(pa.table(columns, schema=REQUEST_COLUMNS))
    unfinished.replace(file)


def _as(column: pa.Array, kind: pa.DataType) -> pa.Array:
    return column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
