"""Prints a study's capacities and latencies as Markdown tables."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence

from analysis.command import UNUSABLE, add_study_options
from analysis.report_tables import (
    OF_CLASSES,
    Cell,
    Column,
    Table,
    capacity_tables,
    point_tables,
)
from analysis.view import SECONDS, View
from exp.study.errors import ResultError
from exp.study.results import open_results

TTFT_P99 = Column("TTFT p99, s", "all.ttft_ms.p99", SECONDS)
E2E_MEAN = Column("E2E mean, s", "all.e2e_ms.mean", SECONDS)
LATENCIES = (
    Column("TTFT p50, s", "all.ttft_ms.p50", SECONDS),
    TTFT_P99,
    *OF_CLASSES,
    Column("E2E p50, s", "all.e2e_ms.p50", SECONDS),
    Column("E2E p99, s", "all.e2e_ms.p99", SECONDS),
    E2E_MEAN,
)
GOALS = (
    Column("answered, %", "all.answered_share", 100),
    Column("within goals, %", "all.good_share", 100),
    Column("goodput, answers/s", "all.goodput_per_s"),
    TTFT_P99,
    E2E_MEAN,
)


def tables(view: View, columns: Sequence[Column]) -> list[Table]:
    """Capacities first, then these columns of each point."""
    return [*capacity_tables(view), *point_tables(view, columns)]


def as_markdown(table: Table) -> str:
    """With the best values in bold."""
    lines = [f"**{table.title}**", "", _row(table.heads), _row("---" for _ in table.heads)]
    return "\n".join([*lines, *(_row(map(_text, row)) for row in table.rows)])


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _text(cell: Cell) -> str:
    value = f"**{cell.text}**" if cell.is_best else cell.text
    return f"{value} {cell.note}".strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Read and print; 2 for results that cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m analysis.markdown_tables", description=__doc__)
    add_study_options(parser)
    parser.add_argument(
        "--goals", action="store_true", help="answers within goals in place of most latencies"
    )
    options = parser.parse_args(argv)
    try:
        view = View(open_results(options.results), options.system_name, options.rate)
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    print("\n\n".join(map(as_markdown, tables(view, GOALS if options.goals else LATENCIES))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
