"""Public traces of lengths as CSV: Vidur's, Azure's and BurstGPT's. Read as streams."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from exp.workloads.errors import TraceError

ARRIVAL_COLUMN = "arrived_at"


class Lengths(NamedTuple):
    """One request of such a file."""

    at_s: float | None
    """None where the file does not tell; else from the file's own start of time."""
    num_prompt_tokens: int
    num_output_tokens: int
    hash_ids: tuple[int, ...] = ()
    """Of the prompt's blocks, where the file tells (see ``mooncake``)."""


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise ValueError
    return value


def _timestamp(text: str) -> float:
    """Seconds since 1970 of ``2023-11-16 18:17:03.9799600`` or ``2024-05-10 00:00:00+00:00``.

    Python reads no more than six digits after the point, and before 3.11 no other than three or
    six. Without an offset the time is in UTC.
    """
    whole, _, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    read = datetime.fromisoformat(whole + rest[digits:])
    if read.tzinfo is None:
        read = read.replace(tzinfo=timezone.utc)
    return read.timestamp() + (float(f"0.{rest[:digits]}") if digits else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The columns of a trace; others are ignored."""

    prompt: str
    output: str
    arrival: str
    is_timed: bool = True
    """Whether the arrival must be there."""
    time_s: Callable[[str], float] = _seconds
    time_is: str = "seconds, 0 or more"
    skips_empty: bool = False
    """Requests without a prompt or an answer, which failed, are left out instead of refused."""


VIDUR = Layout(
    prompt="num_prefill_tokens",
    output="num_decode_tokens",
    arrival=ARRIVAL_COLUMN,
    is_timed=False,
)
"""As in Vidur's ``data/processed_traces``."""
AZURE = Layout(
    prompt="ContextTokens",
    output="GeneratedTokens",
    arrival="TIMESTAMP",
    time_s=_timestamp,
    time_is="a time such as 2023-11-16 18:17:03.9799600",
    skips_empty=True,
)
"""The Azure LLM inference traces of 2023 and of 2024 (Azure/AzurePublicDataset)."""
BURSTGPT = Layout(
    prompt="Request tokens", output="Response tokens", arrival="Timestamp", skips_empty=True
)
"""BurstGPT (HPMLL/BurstGPT), both its six columns and, with sessions, its eight."""


def read_lengths(path: Path, layout: Layout = VIDUR) -> Iterator[Lengths]:
    """The rows, read as a stream.

    Raises:
        TraceError: the file cannot be read, a column is missing, or a value is no length; the
            message names line and column.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.reader(file)
            reader = _RowReader(path, layout, next(rows, []))
            for row in rows:
                if row and (read := reader.read(row, rows.line_num)):
                    yield read
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path} is no CSV file: {error}") from error


class _RowReader:
    """Reads the rows of one file."""

    def __init__(self, path: Path, layout: Layout, columns: list[str]) -> None:
        needed = [layout.prompt, layout.output, *([layout.arrival] if layout.is_timed else [])]
        for column in needed:
            if column not in columns:
                found = ", ".join(columns) or "an empty file"
                raise TraceError(f"{path}, line 1: no column {column} (found: {found})")
        self._path = path
        self._layout = layout
        self._places = {column: place for place, column in enumerate(columns)}

    def read(self, row: list[str], line: int) -> Lengths | None:
        """None for a request that failed."""
        layout = self._layout
        try:
            at_s = self._arrival(row) if layout.arrival in self._places else None
            prompt, output = self._count(row, layout.prompt), self._count(row, layout.output)
        except ValueError as error:
            raise TraceError(f"{self._path}, line {line}, {error}") from None
        if layout.skips_empty and not (prompt and output):
            return None
        return Lengths(at_s, prompt, output)

    def _arrival(self, row: list[str]) -> float:
        text = self._text(row, self._layout.arrival)
        try:
            return self._layout.time_s(text)
        except ValueError:
            what = self._layout.time_is
            raise ValueError(
                f"column {self._layout.arrival}: must be {what} (got {text!r})"
            ) from None

    def _count(self, row: list[str], column: str) -> int:
        text = self._text(row, column)
        try:
            value = float(text)
            count = int(value)
        except (ValueError, OverflowError):
            raise ValueError(f"column {column}: must be a number (got {text!r})") from None
        least = 0 if self._layout.skips_empty else 1
        if count != value or count < least:
            raise ValueError(f"column {column}: must be {least} or more (got {text!r})")
        return count

    def _text(self, row: list[str], column: str) -> str:
        place = self._places[column]
        if place >= len(row):
            raise ValueError(f"column {column}: the row ends before it")
        return row[place]
