"""The tables of a report: capacities, latencies, predictions and what was run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from analysis.view import SECONDS, Shown, View, scaled
from exp.study.case import Fleet, Goals, WorkloadSpec
from exp.study.plan import Scenario, System
from exp.study.results import Capacity, Interval, Point


class Cell(NamedTuple):
    """What stands in a table."""

    text: str
    number: float | None = None
    """To sort by; None: by the text."""
    note: str = ""
    """Smaller, beside it: an interval."""
    is_best: bool = False


class Table(NamedTuple):
    """Rows of cells below heads."""

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


class Column(NamedTuple):
    """A figure of a point."""

    head: str
    figure: str
    """As in ``exp/study/figures.py``."""
    factor: float = 1.0


OF_CLASSES = (
    Column("short: TTFT p99, s", "short.ttft_ms.p99", SECONDS),
    Column("long: TTFT p99, s", "long.ttft_ms.p99", SECONDS),
)
"""Shown together or not at all."""
LATENCIES = (
    Column("answered, %", "all.answered_share", 100),
    Column("within goals, %", "all.good_share", 100),
    Column("answers/s", "all.throughput_per_s"),
    Column("TTFT p50, s", "all.ttft_ms.p50", SECONDS),
    Column("TTFT p99, s", "all.ttft_ms.p99", SECONDS),
    *OF_CLASSES,
    Column("TPOT p50, ms", "all.tpot_ms.p50"),
    Column("TPOT p99, ms", "all.tpot_ms.p99"),
    Column("E2E mean, s", "all.e2e_ms.mean", SECONDS),
    Column("E2E p50, s", "all.e2e_ms.p50", SECONDS),
    Column("E2E p99, s", "all.e2e_ms.p99", SECONDS),
)
WORKINGS = (
    Column("E2E: mean error, %", "prediction.e2e_error", 100),
    Column("E2E: median bias, %", "prediction.e2e_bias", 100),
    Column("TTFT: mean error, ms", "prediction.ttft_error_ms"),
    Column("output length: mean error, %", "prediction.length_error", 100),
    Column("decision p50, ms", "decision_ms.p50"),
    Column("decision p99, ms", "decision_ms.p99"),
    Column("waited in the gateway p99, s", "all.waited_ms.p99", SECONDS),
    Column("preemptions/request", "preemptions_per_request"),
    Column("migrations/request", "migrations_per_request"),
    Column("prompt found in caches, %", "cached_share", 100),
    Column("stolen, %", "stolen_share", 100),
    Column("units busy", "units_busy"),
)


def capacity_tables(view: View) -> Iterator[Table]:
    """One for each scenario in which capacities were searched; the highest stand out."""
    limits_s = view.results.config.study.capacity_ttft_s
    baseline = view.results.config.study.baseline
    names = {one.name: one.label for one in view.systems()}
    ratio = [f"over {names.get(baseline, baseline)}"] if baseline else []
    heads = ["system"]
    for limit_s in limits_s:
        heads += [f"requests/s, p99 TTFT ≤ {limit_s:g} s", *ratio]
    for scenario in view.scenarios:
        rows = [
            (system, [view.capacity(scenario, system, limit_s) for limit_s in limits_s])
            for system in view.systems(scenario)
        ]
        rows = [(system, found) for system, found in rows if any(found)]
        if rows:
            best = [_highest([found[place] for _, found in rows]) for place in range(len(limits_s))]
            yield Table(
                view.label(scenario.label),
                heads,
                [_capacity_row(system, found, best, bool(ratio)) for system, found in rows],
            )


def _highest(found: Sequence[Capacity | None]) -> float | None:
    return max((one.per_s.value for one in found if one and one.per_s), default=None)


def _capacity_row(
    system: Shown,
    found: Sequence[Capacity | None],
    best: Sequence[float | None],
    is_compared: bool,
) -> list[Cell]:
    row = [Cell(system.label)]
    for one, highest in zip(found, best, strict=True):
        per_s = one.per_s if one else None
        row.append(cell(per_s, is_best=per_s is not None and per_s.value == highest))
        if is_compared:
            row.append(cell(one.over_baseline if one else None))
    return row


def point_tables(view: View, columns: Sequence[Column]) -> Iterator[Table]:
    """One for each scenario with points, with those of the columns that it has figures for."""
    for scenario in view.scenarios:
        points = view.points(scenario)
        measured = {name for point in points for name, one in point.figures.items() if one.high}
        shown = [column for column in columns if column.figure in measured]
        if len({column.figure for column in OF_CLASSES} & measured) < len(OF_CLASSES):
            shown = [column for column in shown if column not in OF_CLASSES]
        if points and shown:
            yield Table(
                view.label(scenario.label),
                ["requests/s", "system", *(column.head for column in shown)],
                list(_point_rows(view, scenario, points, shown)),
            )


def _point_rows(
    view: View, scenario: Scenario, points: Sequence[Point], columns: Sequence[Column]
) -> Iterator[list[Cell]]:
    """By rate, systems in the study's order."""
    labels = {one.name: one.label for one in view.systems(scenario)}
    order = list(labels)
    for point in sorted(points, key=lambda one: (one.rate_per_s, order.index(one.system))):
        rate = Cell(f"{point.rate_per_s:g}", point.rate_per_s)
        found = [(point.figures.get(column.figure), column.factor) for column in columns]
        cells = [cell(scaled(one, factor) if one else None) for one, factor in found]
        yield [rate, Cell(labels[point.system]), *cells]


def cell(interval: Interval | None, *, is_best: bool = False) -> Cell:
    """A value with its interval."""
    if interval is None:
        return Cell("-", float("-inf"))
    ends = f"[{_short(interval.low)}, {_short(interval.high)}]"
    has_ends = interval.low < interval.high
    return Cell(_short(interval.value), interval.value, ends if has_ends else "", is_best)


def _short(value: float) -> str:
    """Three digits, but whole numbers whole."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def scenario_table(view: View) -> Table:
    """Fleets and workloads."""
    return Table(
        "Scenarios",
        ["scenario", "units", "model", "workload", "arrivals", "lengths told", "goals"],
        [
            [
                Cell(view.label(one.label)),
                Cell(_units(one.fleet)),
                Cell(one.fleet.model_config),
                Cell(_workload(one.workload)),
                Cell(_changed(one.workload.arrivals)),
                Cell(_changed(one.lengths)),
                Cell("; ".join(_goals(name, goals) for name, goals in one.goals.items()) or "none"),
            ]
            for one in view.scenarios
        ],
    )


def _units(fleet: Fleet) -> str:
    groups = [
        f"{group.count} {group.gpu}"
        + (f" at {group.speed:g} times the speed" if group.speed != 1 else "")
        for group in fleet.groups
    ]
    return " + ".join(groups)


def _workload(workload: WorkloadSpec) -> str:
    path = f" from {workload.path}" if workload.path else ""
    return f"{workload.num_requests} requests of {workload.source}{path}"


def _goals(name: str, goals: Goals) -> str:
    parts = [
        f"{latency} ≤ {goal_ms:g} ms"
        for latency, goal_ms in (("TTFT", goals.ttft_ms), ("TPOT", goals.tpot_ms))
        if goal_ms is not None
    ]
    return f"{'all' if name == '*' else name}: {', '.join(parts) or 'none'}"


def _changed(value: msgspec.Struct) -> str:
    """The fields of a value: its kind, and what is not as by default."""
    defaults = type(value)()
    parts = [
        f"{name} {getattr(value, name)}"
        for name in value.__struct_fields__
        if name != "kind" and getattr(value, name) != getattr(defaults, name)
    ]
    return ", ".join([str(getattr(value, "kind", "")), *parts])


def system_table(view: View) -> Table:
    """The gateway's settings of each system."""
    systems = view.results.config.study.systems
    return Table(
        "Systems",
        ["system", "name in the results", "settings of the gateway"],
        [[Cell(view.label(one.label)), Cell(one.name), Cell(_settings(one))] for one in systems],
    )


def _settings(system: System) -> str:
    settings = [f"{name}={value}" for name, value in system.gateway.items()]
    if system.lengths is not None:
        settings.append(f"lengths told: {_changed(system.lengths)}")
    if system.migration is not None:
        settings.append(f"migration: {system.migration}")
    return ", ".join(settings) or "as by default"
