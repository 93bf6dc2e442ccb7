"""The same trace on the twin and on what it stands for: figures side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

from exp.study.records import RequestRecord

Say = Callable[[str], None]
"""Tells how far it has come."""
_HEAD = ("comparison", "quantity", "theirs", "twin's", "difference", "limit", "within")
_LEFT = 2
"""Columns of words; the others hold numbers."""


class Quantity(NamedTuple):
    """A figure of the latencies of all seeds' requests."""

    title: str
    latency: str
    """A field of ``RequestRecord``."""
    percent: float | None
    """Percentile; None: the mean."""
    limit: float
    """Of the difference, as a share of theirs."""


MEAN = (Quantity("E2E mean, ms", "e2e_ms", None, 0.02),)
PERCENTILES = (
    Quantity("TTFT p50, ms", "ttft_ms", 50, 0.10),
    Quantity("TTFT p99, ms", "ttft_ms", 99, 0.20),
    Quantity("E2E p50, ms", "e2e_ms", 50, 0.10),
    Quantity("E2E p99, ms", "e2e_ms", 99, 0.20),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    comparison: str
    quantity: str
    theirs: float
    twins: float
    limit: float

    @property
    def difference(self) -> float:
        """As a share of theirs; positive where the twin's is larger. NaN if either is missing."""
        if self.theirs == self.twins:
            return 0.0
        return (self.twins - self.theirs) / self.theirs if self.theirs else float("inf")

    @property
    def is_within(self) -> bool:
        """Never with a NaN."""
        return abs(self.difference) <= self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All runs of one trace after the other."""

    name: str
    quantities: Sequence[Quantity]
    theirs: list[list[RequestRecord]] = field(default_factory=list)
    """By seed."""
    twins: list[list[RequestRecord]] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=lambda: {"load_average": os.getloadavg()[0]})
    """What was measured beforehand, and how well it fits. The load average is that of this machine
    before the first run: real runs share it with whatever else goes on."""

    def rows(self) -> list[Row]:
        """How many were answered, without which latencies mean little, and all quantities."""
        theirs, twins = (
            sum(one.outcome == "ok" for run in side for one in run)
            for side in (self.theirs, self.twins)
        )
        answered = Row(
            comparison=self.name,
            quantity="answered requests",
            theirs=theirs,
            twins=twins,
            limit=0.0,
        )
        return [answered, *map(self._row, self.quantities)]

    def to_json(self) -> dict[str, Any]:
        """For files."""
        return {
            "comparison": self.name,
            "requests": [len(run) for run in self.theirs],
            "notes": {name: round(value, 4) for name, value in self.notes.items()},
            "rows": [
                asdict(row) | {"difference": row.difference, "is_within": row.is_within}
                for row in self.rows()
            ],
        }

    def _row(self, quantity: Quantity) -> Row:
        return Row(
            comparison=self.name,
            quantity=quantity.title,
            theirs=_value(self.theirs, quantity),
            twins=_value(self.twins, quantity),
            limit=quantity.limit,
        )


def _value(runs: Sequence[Sequence[RequestRecord]], quantity: Quantity) -> float:
    """NaN where there are no latencies."""
    found = [getattr(one, quantity.latency) for run in runs for one in run]
    latencies = [one for one in found if one is not None]
    if not latencies:
        return float("nan")
    if quantity.percent is None:
        return float(np.mean(latencies))
    return float(np.percentile(latencies, quantity.percent))


def table(rows: Sequence[Row]) -> str:
    """For people."""
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < _LEFT else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: Row) -> tuple[str, ...]:
    return (
        row.comparison,
        row.quantity,
        f"{row.theirs:,.1f}".removesuffix(".0"),
        f"{row.twins:,.1f}".removesuffix(".0"),
        f"{row.difference:+.1%}",
        f"{row.limit:.0%}",
        "yes" if row.is_within else "NO",
    )
