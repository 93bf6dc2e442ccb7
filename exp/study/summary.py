"""What runs came to, over seeds: points of curves, capacities and their comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from exp.study import statistics
from exp.study.capacity import CapacitySearch
from exp.study.plan import Study
from exp.study.results import Capacity, CaseSummary, Interval, Point

Searches = Mapping[tuple[str, str], Mapping[int, CapacitySearch]]
"""By scenario and system, then by seed; finished."""


def points(cases: Sequence[CaseSummary]) -> list[Point]:
    """Medians over the seeds of each scenario, system and rate, in the order of the cases."""
    grouped: dict[tuple[str, str, float], list[CaseSummary]] = {}
    for case in cases:
        if case.is_point and case.error is None:
            key = (case.scenario, case.system, case.rate_per_s)
            grouped.setdefault(key, []).append(case)
    return [
        Point(
            scenario=scenario,
            system=system,
            rate_per_s=rate_per_s,
            seeds=sorted(case.seed for case in members),
            figures=_medians([case.figures for case in members]),
        )
        for (scenario, system, rate_per_s), members in grouped.items()
    ]


def _medians(figures: Sequence[Mapping[str, float]]) -> dict[str, Interval]:
    return {
        name: statistics.median([one[name] for one in figures])
        for name in figures[0]
        if all(name in one for one in figures)
    }


def capacities(study: Study, searches: Searches) -> list[Capacity]:
    """Of each scenario and system under each limit."""
    found = []
    for (scenario, system), by_seed in searches.items():
        base = searches.get((scenario, study.baseline)) if study.baseline else None
        for limit_s in study.capacity_ttft_s:
            per_s = _by_seed(by_seed, limit_s)
            found.append(
                Capacity(
                    scenario=scenario,
                    system=system,
                    ttft_limit_s=limit_s,
                    per_s_by_seed=per_s,
                    per_s=_mean(list(per_s.values())),
                    over_baseline=_mean_ratio(per_s, _by_seed(base, limit_s)) if base else None,
                )
            )
    return found


def _by_seed(searches: Mapping[int, CapacitySearch], limit_s: float) -> dict[int, float | None]:
    return {seed: search.capacity_per_s(limit_s * 1e3) for seed, search in searches.items()}


def _mean(values: Sequence[float | None]) -> Interval | None:
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known and len(known) == len(values) else None


def _mean_ratio(
    per_s: Mapping[int, float | None], base_per_s: Mapping[int, float | None]
) -> Interval | None:
    """Seed by seed, so that what makes a trace hard for all systems cancels out."""
    ratios = []
    for seed, value in per_s.items():
        base = base_per_s.get(seed)
        ratios.append(value / base if value is not None and base else None)
    return _mean(ratios)
