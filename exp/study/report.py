"""A study's summary in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from exp.study.plan import Study
from exp.study.results import Capacity, Interval, Point, Summary

COLUMNS = ("all.ttft_ms.p50", "all.ttft_ms.p99", "all.e2e_ms.mean", "all.good_share")


def report(study: Study, summary: Summary) -> str:
    """Capacities, the points of curves, and what failed."""
    return "\n".join([*_capacities(study, summary), *_points(summary), *_failures(summary)])


def _capacities(study: Study, summary: Summary) -> Iterator[str]:
    for scenario in study.scenarios:
        found = [one for one in summary.capacities if one.scenario == scenario.name]
        if not found:
            continue
        yield f"\n{scenario.label}: requests/s kept up with, by limit of TTFT p99"
        for system in dict.fromkeys(one.system for one in found):
            cells = [_capacity(one) for one in found if one.system == system]
            yield f"  {system:<20}{''.join(cells)}".rstrip()


def _capacity(one: Capacity) -> str:
    value = "none" if one.per_s is None else _interval(one.per_s)
    ratio = "" if one.over_baseline is None else f" x{one.over_baseline.value:.3f}"
    return f"{one.ttft_limit_s:g} s: {value + ratio:<32}"


def _interval(one: Interval) -> str:
    return f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]"


def _points(summary: Summary) -> Iterator[str]:
    if summary.points:
        titles = (name.removeprefix("all.") for name in COLUMNS)
        heads = "".join(f"{title:>15}" for title in titles)
        yield f"\n{'scenario':<22}{'system':<20}{'rate':>8}{heads}"
    for point in summary.points:
        yield f"{point.scenario:<22}{point.system:<20}{point.rate_per_s:>8g}{_cells(point)}"


def _cells(point: Point) -> str:
    values = (point.figures.get(name) for name in COLUMNS)
    return "".join(f"{'-' if one is None else f'{one.value:.4g}':>15}" for one in values)


def _failures(summary: Summary) -> Iterator[str]:
    failed = [case.error for case in summary.cases if case.error]
    if failed:
        yield f"\n{len(failed)} of {len(summary.cases)} runs failed and can be tried again:"
        yield from (f"  {error}" for error in failed[:5])
