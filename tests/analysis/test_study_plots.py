"""Figures of ablations and comparisons show what is in the results."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from matplotlib.axes import Axes

from analysis import (
    burstiness_plot,
    cpu_overhead_plot,
    hetero_plot,
    llumnix_comparison_plot,
    po2_plot,
    pools_plot,
    prediction_error_plot,
    provision_plot,
)
from analysis.make_report import PLOTS
from analysis.view import NothingToDraw, View
from exp.study.case import Arrivals, Goals, TwinOptions
from exp.study.plan import System
from tests.analysis.small_studies import ROUND_ROBIN, play, scenario, study, units, view_of

LABELS = {"astrolabe": "Sextant", "round_robin": "round robin"}


def value(view: View, place: str, system: str, figure: str, rate_per_s: float) -> float:
    """Of a point in the summary."""
    return next(
        one.figures[figure].value
        for one in view.results.summary.points
        if (one.scenario, one.system, one.rate_per_s) == (place, system, rate_per_s)
    )


def lines(axes: Axes) -> dict[str, list[list[float]]]:
    """Points by label."""
    return {str(one.get_label()): np.asarray(one.get_xydata()).tolist() for one in axes.get_lines()}


def bar_lengths(axes: Axes) -> dict[str, float]:
    """By the names beside them."""
    names = [tick.get_text() for tick in axes.get_yticklabels()]
    return dict(zip(names, [float(bar.get_width()) for bar in axes.patches], strict=True))  # type: ignore[attr-defined]


def asking(k: int) -> System:
    """So many units are candidates."""
    return System(
        name=f"k{k}",
        label=f"k = {k}",
        gateway={"policy": "soonest", "k": str(k)},
        variables={"k": k},
    )


def test_po2_shows_latency_capacity_and_cost(tmp_path: Path) -> None:
    """For each k; the time to decide is that of the results."""
    systems = (asking(1), asking(2), asking(4))
    one = scenario(capacity_near_per_s=2.0)
    plan = msgspec.structs.replace(study(one, systems=systems), baseline="k4")
    view = view_of(plan, tmp_path, rate_per_s=2.0)
    (drawn,) = po2_plot.draw(view)
    curves, capacity, deciding = drawn.figure.axes
    p99_s = value(view, "equal", "k2", "all.ttft_ms.p99", 2.0) / 1e3
    assert lines(curves)["k = 2"][-1] == pytest.approx([2.0, p99_s])
    assert bar_lengths(deciding) == {"k = 1": 2.0, "k = 2": 3.0, "k = 4": 5.0}
    found = [one for one in view.results.summary.capacities if one.ttft_limit_s == 3.0]
    assert list(bar_lengths(capacity).values()) == [one.per_s.value for one in found if one.per_s]
    assert capacity.get_xlabel() == "capacity (requests/s)"


def test_po2_shows_throughput_where_no_capacity_was_searched(tmp_path: Path) -> None:
    """At the same rate as the time to decide."""
    view = view_of(study(scenario(), systems=(asking(1), asking(4))), tmp_path, rate_per_s=1.0)
    _, throughput, _ = po2_plot.draw(view)[0].figure.axes
    assert bar_lengths(throughput)["k = 4"] == value(
        view, "equal", "k4", "all.throughput_per_s", 1.0
    )


def test_burstiness_is_on_the_x_axis(tmp_path: Path) -> None:
    """A line a system over the scenarios, at one rate."""
    scenarios = []
    for shape in (1.0, 0.25, 2.0):
        one = scenario(f"gamma_{shape:g}", variables={"burstiness": shape})
        arrivals = Arrivals(kind="gamma", burstiness=shape)
        workload = msgspec.structs.replace(one.workload, arrivals=arrivals)
        scenarios.append(msgspec.structs.replace(one, workload=workload))
    view = view_of(study(*scenarios), tmp_path, rate_per_s=2.0)
    (drawn,) = burstiness_plot.draw(view)
    p99 = drawn.figure.axes[2]
    assert p99.get_ylabel() == "p99 TTFT (s)"
    for system, label in LABELS.items():
        expected = [
            [shape, value(view, f"gamma_{shape:g}", system, "all.ttft_ms.p99", 2.0) / 1e3]
            for shape in (0.25, 1.0, 2.0)
        ]
        assert lines(p99)[label] == pytest.approx(np.array(expected))
    assert [tick.get_text() for tick in p99.get_xticklabels()] == ["0.25", "1", "2"]


def test_errors_are_a_heat_map_with_the_values_in_it(tmp_path: Path) -> None:
    """Rows are errors of step times, columns of lengths; a cell nobody measured stays empty."""
    scenarios = [
        msgspec.structs.replace(
            scenario(f"l{length:g}s{step:g}", rates_per_s=(2.0,)),
            variables={"length_error": length, "step_error": step},
            twin=TwinOptions(step_error=step),
        )
        for length, step in ((0.0, 0.0), (0.0, 0.5), (1.0, 0.0))
    ]
    view = view_of(study(*scenarios), tmp_path)
    (drawn,) = prediction_error_plot.draw(view)
    maps = {axes.get_title(): axes for axes in drawn.figure.axes}
    assert len(maps) == 4
    axes = maps["Sextant: p99 TTFT (s)"]
    shown = axes.images[0].get_array()
    assert shown is not None
    grid = np.ma.filled(shown, np.nan)
    p99_s = {
        name: value(view, name, "astrolabe", "all.ttft_ms.p99", 2.0) / 1e3
        for name in ("l0s0", "l0s0.5", "l1s0")
    }
    expected = [[p99_s["l0s0"], p99_s["l1s0"]], [p99_s["l0s0.5"], np.nan]]
    assert grid == pytest.approx(np.array(expected), nan_ok=True)
    assert {text.get_text() for text in axes.texts} == {f"{one:.3g}" for one in p99_s.values()}
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0", "0.5"]


def test_cpu_is_measured_or_else_the_time_spent_on_deciding(tmp_path: Path) -> None:
    """Cores of gateway and sidecars where they are processes; in the twin there are none."""
    plan = study(scenario())
    measured = view_of(plan, tmp_path / "processes", cpu_gateway=0.5, cpu_sidecars=2.0)
    gateway, sidecars, median, _ = cpu_overhead_plot.draw(measured)[0].figure.axes
    assert lines(gateway)["Sextant"] == [[1.0, 0.5], [2.0, 0.5]]
    assert lines(sidecars)["Sextant"] == [[1.0, 2.0], [2.0, 2.0]]
    assert lines(median)["Sextant"] == [[1.0, 5.0], [2.0, 5.0]]
    simulated = view_of(plan, tmp_path / "twin")
    deciding, *others = cpu_overhead_plot.draw(simulated)[0].figure.axes
    assert len(others) == 2
    share = value(simulated, "equal", "astrolabe", "deciding_share", 2.0)
    assert lines(deciding)["Sextant"][-1] == [2.0, share]


def test_migrations_are_shown_beside_latencies(tmp_path: Path) -> None:
    """Of the system that migrates; the others have none."""
    moving = msgspec.structs.replace(
        ROUND_ROBIN, name="llumnix_migration", label="Llumnix", migration="llumnix"
    )
    view = view_of(study(scenario(), systems=(ROUND_ROBIN, moving)), tmp_path)
    axes = llumnix_comparison_plot.draw(view)[0].figure.axes
    panels = {one.get_ylabel(): lines(one) for one in axes}
    assert panels["migrations per request"]["Llumnix"] == [[1.0, 0.1], [2.0, 0.1]]
    assert panels["migrations per request"]["round robin"] == [[1.0, 0.0], [2.0, 0.0]]
    assert panels["p99 TTFT (s)"]["Llumnix"] == panels["p99 TTFT (s)"]["round robin"]


def test_pools_show_each_class_by_itself(tmp_path: Path) -> None:
    """p99 over load, and at one rate the tail of all seeds' requests, with its goal."""
    goals = {"short": Goals(ttft_ms=500.0), "long": Goals(ttft_ms=2_000.0)}
    view = view_of(study(msgspec.structs.replace(scenario(), goals=goals)), tmp_path, 2.0)
    short, long, short_tail, long_tail = pools_plot.draw(view)[0].figure.axes
    for axes, name in ((short, "short"), (long, "long")):
        p99_s = value(view, "equal", "astrolabe", f"{name}.ttft_ms.p99", 2.0) / 1e3
        assert lines(axes)["Sextant"][-1] == pytest.approx([2.0, p99_s])
    plan = view.results.config.study
    cases = [plan.case(plan.scenarios[0], plan.systems[1], 2.0, seed) for seed in (1, 2, 3)]
    for axes, name, goal_s in ((short_tail, "short", 0.5), (long_tail, "long", 2.0)):
        waits_s = sorted(
            one.ttft_ms / 1e3
            for case in cases
            for one in play(case)
            if one.request_class == name and one.ttft_ms is not None
        )
        tail = np.array(lines(axes)["Sextant"])
        assert tail[:, 0] == pytest.approx(waits_s)
        assert tail[:, 1] == pytest.approx(1 - np.arange(len(waits_s)) / len(waits_s))
        assert [goal_s, 0.0] in [points[0] for points in lines(axes).values()]


def test_unequal_fleets_show_who_did_the_work(tmp_path: Path) -> None:
    """Shares of output tokens by kind of GPU, in the fleet's order, for each system."""
    fleet = units(A30=3, A100=1)
    view = view_of(study(scenario(fleet=fleet, capacity_near_per_s=3.0)), tmp_path, 2.0)
    _, _, capacity, work = hetero_plot.draw(view)[0].figure.axes
    assert list(bar_lengths(capacity)) == ["round robin", "Sextant"]
    widths = np.array([bar.get_width() for bar in work.patches]).reshape(2, 2)  # type: ignore[attr-defined]
    assert widths.sum(axis=0) == pytest.approx(1)
    assert widths[0, 0] == pytest.approx(0.75)  # three of four units take turns
    plan = view.results.config.study
    units_used = [
        record.unit
        for seed in (1, 2, 3)
        for record in play(plan.case(plan.scenarios[0], plan.systems[1], 2.0, seed))
    ]
    assert widths[1, 1] == pytest.approx(units_used.count("unit-04") / len(units_used))
    assert hetero_plot.gpus_of_units(fleet)["unit-04"] == "A100-40G"


def test_units_at_work_are_counted_over_time(tmp_path: Path) -> None:
    """While they have a request in flight; waits are those of the requests that arrive."""
    run = {
        "unit": np.array(["a", "a", "b"]),
        "at_s": np.array([1.0, 2.0, 25.0]),
        "waited_ms": np.array([0.0, 0.0, 6e3]),
        "ttft_ms": np.array([100.0, 200.0, 7e3]),
        "e2e_ms": np.array([3e3, 15e3, 20e3]),
    }
    assert provision_plot.units_at_work(run).tolist() == [1, 1, 0, 1, 1]
    assert provision_plot.waits_s(run) == pytest.approx([0.19, 0.19, 7.0])
    fleet = msgspec.structs.replace(units(A30=4), num_standby=2)
    view = view_of(study(scenario(fleet=fleet, rates_per_s=(2.0,))), tmp_path)
    _, good, at_work, busy = provision_plot.draw(view)[0].figure.axes
    assert max(y for _, y in lines(at_work)["Sextant"]) == 4
    assert bar_lengths(good)["Sextant"] == value(view, "equal", "astrolabe", "all.good_share", 2.0)
    assert bar_lengths(busy)["Sextant"] == value(view, "equal", "astrolabe", "units_busy", 2.0)


def test_a_study_of_something_else_is_told_so(tmp_path: Path) -> None:
    """Each figure names the folder that has not what it is about."""
    view = view_of(study(scenario(rates_per_s=(1.0,))), tmp_path)
    others = set(PLOTS) - {"experiment_plot", "pools_plot"}
    assert len(others) == 7
    for name in others:
        with pytest.raises(NothingToDraw, match=str(view.results.folder)):
            PLOTS[name](view)
