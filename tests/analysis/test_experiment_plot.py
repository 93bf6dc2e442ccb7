"""The main figures show what is in the results."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.axes import Axes

from analysis.experiment_plot import SHARES, draw
from analysis.view import Drawn, NothingToDraw, View
from exp.study.case import Goals
from exp.study.plan import System
from tests.analysis.small_studies import (
    ASTROLABE,
    ROUND_ROBIN,
    play,
    scenario,
    study,
    units,
    view_of,
)


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Curves of four units, and capacities of four and of eight."""
    four = scenario(rates_per_s=(1.0, 1.6, 2.2), capacity_near_per_s=2.0)
    eight = scenario("double", units(A30=8), (), 4.0)
    return view_of(study(four, eight), tmp_path_factory.mktemp("results"))


def named(drawn: list[Drawn]) -> dict[str, list[Axes]]:
    """Axes by the figure's name."""
    return {one.name: one.figure.axes for one in drawn}


def line(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    """Its points."""
    found = next(one for one in axes.get_lines() if one.get_label() == label)
    xs, ys = np.asarray(found.get_data(), dtype=float)
    return list(xs), list(ys)


def test_the_figures_are_named_as_the_paper_s(view: View) -> None:
    """qps, linear and cdf, without the scenario's name where only one has them."""
    assert list(named(draw(view))) == ["qps", "linear", "cdf"]


def test_latency_and_throughput_are_those_of_the_summary(view: View) -> None:
    """Each panel has each system's medians over the rates, in seconds, and a band around them."""
    figure = named(draw(view))["qps"]
    panels = {axes.get_ylabel(): axes for axes in figure}
    assert list(panels) == [
        "mean TTFT (s)",
        "mean E2E latency (s)",
        "throughput (answers/s)",
        "p99 TTFT (s)",
        "p99 E2E latency (s)",
        "share answered",
    ]
    points = [one for one in view.results.summary.points if one.system == "astrolabe"]
    for label, name, factor in (
        ("p99 TTFT (s)", "all.ttft_ms.p99", 1e-3),
        ("mean E2E latency (s)", "all.e2e_ms.mean", 1e-3),
        ("throughput (answers/s)", "all.throughput_per_s", 1.0),
    ):
        rates, values = line(panels[label], "Sextant")
        assert rates == [1.0, 1.6, 2.2]
        expected = [point.figures[name] for point in points]
        assert values == pytest.approx([one.value * factor for one in expected])
        bands = [np.asarray(band.get_paths()[0].vertices) for band in panels[label].collections]
        assert len(bands) == 2
        assert bands[1][:, 1].max() == pytest.approx(max(one.high for one in expected) * factor)
        assert bands[1][:, 1].min() == pytest.approx(min(one.low for one in expected) * factor)


def test_goodput_is_shown_where_there_are_goals(tmp_path: Path) -> None:
    """In place of the share that was answered."""
    with_goals = msgspec.structs.replace(scenario(), goals={"*": Goals(ttft_ms=1_000.0)})
    axes = named(draw(view_of(study(with_goals), tmp_path)))["qps"][-1]
    assert axes.get_ylabel() == "goodput (answers/s)"


def test_capacity_grows_with_the_fleet(view: View) -> None:
    """Both limits, each with the capacities found and a line in proportion to the smallest."""
    for axes, limit_s in zip(named(draw(view))["linear"], (3.0, 10.0), strict=True):
        sizes, per_s = line(axes, "Sextant")
        assert sizes == [4, 8]
        found = {
            one.scenario: one.per_s.value
            for one in view.results.summary.capacities
            if one.system == "astrolabe" and one.ttft_limit_s == limit_s and one.per_s
        }
        assert per_s == [found["equal"], found["double"]]
        ideal = np.asarray(axes.get_lines()[-1].get_data(), dtype=float)
        assert ideal[1, 1] / ideal[0, 1] == pytest.approx(found["equal"] / 4)
        assert {text.get_text() for text in axes.texts} == {"Sextant", "round robin"}


def test_distributions_are_those_of_the_requests(view: View) -> None:
    """The median over seeds of each quantile, and the tail is its other side."""
    within, _, longer, _ = named(draw(view))["cdf"]
    rate_per_s = view.rate_of(view.scenarios[:1])
    plan = view.results.config.study
    cases = [plan.case(plan.scenarios[0], ASTROLABE, rate_per_s, seed) for seed in (1, 2, 3)]
    ttft_s = [[record.ttft_ms / 1e3 for record in play(case) if record.ttft_ms] for case in cases]
    expected = np.median([np.quantile(one, SHARES) for one in ttft_s], axis=0)
    assert line(within, "Sextant")[0] == pytest.approx(list(expected))
    values, shares = line(longer, "Sextant")
    assert values == pytest.approx(list(expected))
    assert shares == pytest.approx(list(1 - SHARES))


def test_one_rate_is_chosen_at_which_half_of_the_systems_keep_up(view: View) -> None:
    """The highest; a rate that was asked for is taken if it was run."""
    points = {(one.system, one.rate_per_s): one for one in view.results.summary.points}
    p99_ms = {
        rate: min(
            points[name, rate].figures["all.ttft_ms.p99"].value
            for name in ("round_robin", "astrolabe")
        )
        for rate in (1.0, 1.6, 2.2)
    }
    kept = max(rate for rate, value in p99_ms.items() if value <= 3_000)
    four = view.scenarios[:1]
    assert view.rate_of(four) == kept
    assert View(view.results, rate_per_s=1.0).rate_of(four) == 1.0
    with pytest.raises(NothingToDraw, match=r"no runs at the rate 7/s in equal .*1, 1.6, 2.2"):
        View(view.results, rate_per_s=7.0).rate_of(four)


def test_scenarios_have_figures_of_their_own(tmp_path: Path) -> None:
    """With their names in those of the files."""
    two = study(scenario("here"), scenario("there", rates_per_s=(1.0,)))
    assert list(named(draw(view_of(two, tmp_path)))) == ["qps", "cdf-here", "cdf-there"]


def test_systems_without_a_style_of_their_own_get_one_that_is_free(tmp_path: Path) -> None:
    """Nobody looks like another, and known systems look as ever."""
    others = tuple(
        System(name=f"s{n}", label=f"s{n}", gateway=ROUND_ROBIN.gateway) for n in range(7)
    )
    view = view_of(study(scenario(rates_per_s=(1.0,)), systems=(*others, ASTROLABE)), tmp_path)
    styles = [one.style for one in view.systems()]
    assert len(set(styles)) == 8
    assert len({style.marker for style in styles}) == 8


def test_a_study_without_any_of_it_is_said_to_be_one(tmp_path: Path) -> None:
    """With the folder's name."""
    view = view_of(study(scenario(rates_per_s=(), capacity_near_per_s=2.0)), tmp_path)
    with pytest.raises(NothingToDraw, match=str(view.results.folder)):
        draw(view)
