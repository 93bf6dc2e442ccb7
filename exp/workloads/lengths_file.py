"""Public traces of lengths, as Vidur reads them: CSV with ``num_prefill_tokens``,
``num_decode_tokens`` and, where the arrivals are known, ``arrived_at`` in seconds."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from exp.workloads.errors import TraceError

PROMPT_COLUMN = "num_prefill_tokens"
OUTPUT_COLUMN = "num_decode_tokens"
ARRIVAL_COLUMN = "arrived_at"


class Lengths(NamedTuple):
    """One request of such a file."""

    at_s: float | None
    """None where the file does not tell."""
    num_prompt_tokens: int
    num_output_tokens: int


def read_lengths(path: Path) -> Iterator[Lengths]:
    """The rows, read as a stream.

    Raises:
        TraceError: the file cannot be read, a column is missing, or a value is no length; the
            message names line and column.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            columns = rows.fieldnames or []
            for column in (PROMPT_COLUMN, OUTPUT_COLUMN):
                if column not in columns:
                    found = ", ".join(columns) or "an empty file"
                    raise TraceError(f"{path}, line 1: no column {column} (found: {found})")
            for row in rows:
                where = f"{path}, line {rows.line_num}"
                yield Lengths(
                    _arrival(row, where) if ARRIVAL_COLUMN in columns else None,
                    _count(row, PROMPT_COLUMN, where),
                    _count(row, OUTPUT_COLUMN, where),
                )
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} is no CSV file: {error}") from error


def _count(row: Mapping[str, str | None], column: str, where: str) -> int:
    value = _number(row, column, where)
    if value < 1 or value != int(value):
        raise TraceError(f"{where}, column {column}: must be 1 or more (got {row[column]!r})")
    return int(value)


def _arrival(row: Mapping[str, str | None], where: str) -> float:
    value = _number(row, ARRIVAL_COLUMN, where)
    if value < 0:
        raise TraceError(f"{where}, column {ARRIVAL_COLUMN}: must not be negative (got {value:g})")
    return value


def _number(row: Mapping[str, str | None], column: str, where: str) -> float:
    try:
        value = float(row[column] or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TraceError(f"{where}, column {column}: must be a number (got {row[column]!r})")
    return value
