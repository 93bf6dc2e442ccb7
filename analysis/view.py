"""A study's results as figures need them: systems with labels and styles, and points on curves."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, NamedTuple

import numpy.typing as npt
from matplotlib.figure import Figure

from analysis.style import (
    BRICK,
    CYCLE,
    GREEN,
    GREY,
    LIGHT_GREY,
    NAVY,
    OCHRE,
    PURPLE,
    STEEL,
    Style,
)
from exp.study.plan import Scenario, System
from exp.study.results import Capacity, Interval, Point, Results

KNOWN = {
    "astrolabe": Style(NAVY, "-", "o", 2.4),
    "astrolabe_oracle": Style("#3f6fa8", (0, (3, 3)), "*", 1.6, "**"),
    "block": Style(STEEL, (0, (5, 1)), "s", 1.6, "//"),
    "llumnix_minus": Style(BRICK, "--", "D", 1.6, "xx"),
    "llumnix_migration": Style("#d08770", (0, (3, 1, 1, 1)), "d", 1.6, "--"),
    "token_load": Style(GREEN, "-.", "^", 1.6, "\\\\"),
    "prefix_affinity": Style("#9fbf7f", (0, (6, 2, 2, 2)), "v", 1.6, "++"),
    "adasplit": Style(PURPLE, (0, (7, 1, 1, 1, 1, 1)), "P", 1.6, ".."),
    "adasplit_scaled": Style("#b79fd6", (0, (7, 2)), "h", 1.6, "-/"),
    "static": Style("#7d5a3c", (0, (8, 3)), (4, 1, 0), 1.6, "+x"),
    "least_outstanding": Style(OCHRE, (0, (1, 1)), "X", 1.6, "oo"),
    "power_of_two": Style("#bda75a", (0, (2, 1)), "p", 1.6, "||"),
    "round_robin": Style(GREY, ":", ">", 1.6, "///"),
    "random": Style(LIGHT_GREY, (0, (1, 3)), "<", 1.6, "O"),
}
"""The same system looks the same in all figures."""
SECONDS = 1e-3
"""From milliseconds."""


class NothingToDraw(ValueError):
    """A study does not have what a figure is about; says what that is."""


class Drawn(NamedTuple):
    """A figure and what it is called."""

    name: str
    """Of its files, without the ending."""
    figure: Figure
    caption: str
    """What is seen, in a sentence or two."""


Columns = dict[str, npt.NDArray[Any]]


class Shown(NamedTuple):
    """A system as figures name and draw it."""

    name: str
    label: str
    style: Style


class Spot(NamedTuple):
    """A figure over seeds at some place of a curve."""

    x: float
    y: Interval


@dataclass(frozen=True)
class View:
    """Results, under the name that the system under study is to have."""

    results: Results
    system_name: str = "Astrolabe"
    rate_per_s: float | None = None
    """The rate of figures that show only one; None: chosen by ``rate_of``."""

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """In the study's order."""
        return self.results.config.study.scenarios

    def label(self, text: str) -> str:
        """A label of the study, with the system's name in it."""
        return text.replace("{system}", self.system_name)

    def systems(self, scenario: Scenario | None = None) -> list[Shown]:
        """All, or those that took part in a scenario."""
        systems = self.results.config.study.systems
        taken = [KNOWN[one.name] for one in systems if one.name in KNOWN]
        spare = cycle([one for one in CYCLE if not _is_like_any(one, taken)] or CYCLE)
        shown = [
            Shown(one.name, self.label(one.label), KNOWN.get(one.name) or next(spare))
            for one in systems
        ]
        if scenario is None or not scenario.only:
            return shown
        return [one for one in shown if one.name in scenario.only]

    def points(self, scenario: Scenario) -> list[Point]:
        """Of all systems, by rate, ascending."""
        found = [one for one in self.results.summary.points if one.scenario == scenario.name]
        return sorted(found, key=lambda point: point.rate_per_s)

    def curve(
        self, scenario: Scenario, system: Shown, figure: str, factor: float = 1.0
    ) -> list[Spot]:
        """A figure against the rate, where it was measured."""
        return [
            Spot(point.rate_per_s, scaled(point.figures[figure], factor))
            for point in self.points(scenario)
            if point.system == system.name and figure in point.figures
        ]

    def at(
        self, scenario: Scenario, system: Shown, figure: str, rate_per_s: float, factor: float = 1.0
    ) -> Interval | None:
        """A figure at one rate."""
        spots = self.curve(scenario, system, figure, factor)
        return next((spot.y for spot in spots if spot.x == rate_per_s), None)

    def capacity(self, scenario: Scenario, system: Shown, ttft_limit_s: float) -> Capacity | None:
        """As found by search."""
        wanted = (scenario.name, system.name, ttft_limit_s)
        for one in self.results.summary.capacities:
            if (one.scenario, one.system, one.ttft_limit_s) == wanted:
                return one
        return None

    def found_at(
        self, scenario: Scenario, rate_per_s: float, figure: str
    ) -> list[tuple[Shown, Interval]]:
        """A figure at one rate, of the systems that have it."""
        systems = self.systems(scenario)
        found = [(one, self.at(scenario, one, figure, rate_per_s)) for one in systems]
        return [(one, interval) for one, interval in found if interval is not None]

    def capacities(self, scenario: Scenario, ttft_limit_s: float) -> list[tuple[Shown, Interval]]:
        """Means over seeds, of the systems that have one on every seed."""
        systems = self.systems(scenario)
        found = [(one, self.capacity(scenario, one, ttft_limit_s)) for one in systems]
        return [(one, capacity.per_s) for one, capacity in found if capacity and capacity.per_s]

    def rates(self, scenario: Scenario) -> list[float]:
        """At which there are points."""
        return sorted({point.rate_per_s for point in self.points(scenario)})

    def rate_of(self, scenarios: Sequence[Scenario]) -> float:
        """The rate asked for, else the highest that all these scenarios have at which half of the
        systems keep the 99th percentile of TTFT within the study's first limit.

        Raises:
            NothingToDraw: they have no such rate in common.
        """
        common = set.intersection(*(set(self.rates(one)) for one in scenarios))
        if self.rate_per_s is not None and self.rate_per_s in common:
            return self.rate_per_s
        if self.rate_per_s is not None or not common:
            names = ", ".join(one.name for one in scenarios)
            asked = "" if self.rate_per_s is None else f" {self.rate_per_s:g}/s"
            has = ", ".join(f"{rate:g}" for rate in sorted(common)) or "none"
            raise NothingToDraw(f"no runs at the rate{asked} in {names} (rates of all: {has})")
        limit_ms = 1e3 * min(self.results.config.study.capacity_ttft_s, default=3.0)
        kept = [rate for rate in common if self._typical_p99_ms(scenarios, rate) <= limit_ms]
        return max(kept, default=min(common))

    def _typical_p99_ms(self, scenarios: Iterable[Scenario], rate_per_s: float) -> float:
        found = [
            point.figures["all.ttft_ms.p99"].value
            for scenario in scenarios
            for point in self.points(scenario)
            if point.rate_per_s == rate_per_s and "all.ttft_ms.p99" in point.figures
        ]
        return statistics.median_low(found) if found else float("inf")

    def answered(
        self, scenario: Scenario, rate_per_s: float, *columns: str
    ) -> dict[str, list[Columns]]:
        """Columns of the answered requests at one rate, by system, an entry for each seed."""
        cases = {
            case.case_id: case.system
            for case in self.results.summary.cases
            if case.error is None
            and (case.scenario, case.rate_per_s) == (scenario.name, rate_per_s)
        }
        table = self.results.requests(["case_id", "outcome", *columns], cases)
        arrays = {name: _array(table[name]) for name in table.schema.names}
        found: dict[str, list[Columns]] = {}
        for case_id, system in cases.items():
            rows = (arrays["case_id"] == case_id) & (arrays["outcome"] == "ok")
            if rows.any():
                found.setdefault(system, []).append({one: arrays[one][rows] for one in columns})
        return found

    def varying(self, *names: str) -> Iterator[tuple[Scenario, System, tuple[float, ...]]]:
        """Scenarios and systems that the study varies in these variables, with their values."""
        for scenario, system in self.results.config.study.pairs():
            variables = {**scenario.variables, **system.variables}
            if all(name in variables for name in names):
                yield scenario, system, tuple(variables[name] for name in names)

    def file_name(self, figure: str, scenario: Scenario, among: Sequence[Scenario]) -> str:
        """Of a scenario's figure, with the scenario's name if there are several."""
        return figure if len(among) == 1 else f"{figure}-{scenario.name}"

    def spread(self) -> str:
        """What lines and bands are, for captions."""
        num_seeds = len(self.results.config.seeds)
        if num_seeds == 1:
            return "One seed."
        return f"Medians over {num_seeds} seeds with 95 % bootstrap confidence intervals."


def _array(column: Any) -> npt.NDArray[Any]:
    """Of an Arrow column; names of a dictionary as text."""
    values: npt.NDArray[Any] = column.combine_chunks().to_numpy(zero_copy_only=False)
    return values


def _is_like_any(style: Style, others: Iterable[Style]) -> bool:
    return any(style.marker == other.marker or style.colour == other.colour for other in others)


def scaled(interval: Interval, factor: float) -> Interval:
    """In another unit."""
    return Interval(
        value=interval.value * factor, low=interval.low * factor, high=interval.high * factor
    )
