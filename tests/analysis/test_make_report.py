"""The page that is sent around."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest

from analysis.make_report import figures, main, render
from analysis.report_tables import Cell, capacity_tables, cell, scenario_table, system_table
from analysis.view import View
from exp.study.case import Arrivals, Goals, LengthBelief
from exp.study.results import Interval
from tests.analysis.small_studies import results_of, scenario, study, view_of

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory) -> View:
    """Curves, capacities and both classes."""
    plan = study(scenario(capacity_near_per_s=2.0), plots=("experiment_plot", "pools_plot"))
    return view_of(plan, tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def page(view: View) -> str:
    """Of these results."""
    return render(view)


def test_the_page_holds_figures_tables_and_configuration(page: str) -> None:
    """Those figures that the study names, each with what it shows; every point; the settings."""
    assert re.findall(r'<figure id="(\w+)">', page) == ["qps", "cdf", "pools"]
    pictures = re.findall(r"base64,([A-Za-z0-9+/=]+)", page)
    assert all(b"</svg>" in base64.b64decode(one) for one in pictures)
    latency = page[page.index('<h2 id="latency">') : page.index('<h2 id="workings">')]
    assert latency.count("<tr>") == 1 + 2 * 2
    assert "long: TTFT p99, s" in latency
    assert "policy=round_robin" in page
    assert "&#34;capacity_near_per_s&#34;: 2.0" in page
    assert "A &lt;small&gt; study" in page


def test_the_page_needs_nothing_else(view: View, page: str) -> None:
    """It loads nothing, and the same results make the same page."""
    sources = re.findall(r'(?:src|href)="([^"]{1,8})', page)
    assert len(sources) == 3 + 5
    assert all(one.startswith(("data:", "#")) for one in sources)
    assert render(view) == page


def test_capacities_are_those_found_and_the_highest_stands_out(view: View) -> None:
    """With their intervals and the ratio to the baseline."""
    (table,) = capacity_tables(view)
    assert table.title == "the equal of Sextant"
    assert table.heads[2] == "over round robin"
    found = {one.system: one for one in view.results.summary.capacities if one.ttft_limit_s == 3}
    rows = {row[0].text: row for row in table.rows}
    per_s, over = found["astrolabe"].per_s, found["astrolabe"].over_baseline
    assert per_s
    assert over
    assert rows["Sextant"][1].number == per_s.value
    assert rows["Sextant"][2].number == over.value
    assert [row[1].is_best for row in table.rows] == [False, True]
    assert rows["round robin"][2] == Cell("1.00", 1.0)


@pytest.mark.parametrize(
    ("interval", "text", "note"),
    [
        ((0.01234, 0.0123, 0.0129), "0.0123", "[0.0123, 0.0129]"),
        ((31.55, 30.0, 32.44), "31.6", "[30.0, 32.4]"),
        ((1234.4, 1200, 1300), "1234", "[1200, 1300]"),
        ((2.0, 2.0, 2.0), "2.00", ""),
    ],
)
def test_values_have_three_digits(
    interval: tuple[float, float, float], text: str, note: str
) -> None:
    """And no interval where all seeds agree."""
    value, low, high = interval
    made = cell(Interval(value=value, low=low, high=high))
    assert made == Cell(text, value, note)


def test_a_scenario_is_told_in_words(tmp_path: Path) -> None:
    """The fleet, the arrivals and the goals, and of options what is not as by default."""
    one = scenario()
    told = msgspec.structs.replace(
        one,
        workload=msgspec.structs.replace(
            one.workload, arrivals=Arrivals(kind="gamma", burstiness=0.5)
        ),
        lengths=LengthBelief(kind="oracle"),
        goals={"*": Goals(ttft_ms=1_000.0, tpot_ms=75.0)},
    )
    view = view_of(study(told), tmp_path)
    (row,) = scenario_table(view).rows
    assert [each.text for each in row] == [
        "the equal of Sextant",
        "4 A30",
        "config/llama_config.json",
        "120 requests of synthetic",
        "gamma, burstiness 0.5",
        "oracle",
        "all: TTFT ≤ 1000 ms, TPOT ≤ 75 ms",
    ]
    assert system_table(view).rows[1][2].text == "policy=soonest"


def test_figures_that_cannot_be_made_are_told(tmp_path: Path) -> None:
    """If the study names them."""
    plan = study(scenario(rates_per_s=(1.0,)), plots=("po2_plot", "later_plot", "pools_plot"))
    drawn, left_out = figures(view_of(plan, tmp_path))
    assert [one.name for one in drawn] == ["pools"]
    assert [one.split(":")[0] for one in left_out] == ["po2_plot", "later_plot"]


def test_failed_runs_are_told(view: View) -> None:
    """With what they failed of, as text and not as markup."""
    cases = [*view.results.summary.cases]
    cases[0] = msgspec.structs.replace(cases[0], error="<b>no luck</b>")
    summary = msgspec.structs.replace(view.results.summary, cases=cases)
    results = type(view.results)(view.results.folder, view.results.config, summary, "")
    page = render(View(results))
    assert f"1 of {len(cases)} runs failed" in page
    assert "&lt;b&gt;no luck&lt;/b&gt;" in page


@pytest.mark.browser
def test_a_click_on_a_head_sorts(tmp_path: Path) -> None:
    """By number, upwards and then downwards, in a real browser."""
    assert CHROMIUM, "scripts/test installs Chromium"
    folder = results_of(
        study(scenario(rates_per_s=(1.0, 10.0, 2.0)), plots=("po2_plot",)), tmp_path
    )
    assert main(["--results", str(folder), "--output-dir", str(tmp_path)]) == 0
    page = tmp_path / "report.html"
    for clicks, expected in (
        (1, ["1", "1", "2", "2", "10", "10"]),
        (2, ["10", "10", "2", "2", "1", "1"]),
    ):
        click = "document.querySelector('#latency ~ div th button').click();" * clicks
        copy = tmp_path / f"clicked_{clicks}.html"
        copy.write_text(f"{page.read_text(encoding='utf-8')}<script>{click}</script>", "utf-8")
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--dump-dom",
            copy.as_uri(),
        ]
        dom = subprocess.run(command, capture_output=True, timeout=240, check=True).stdout.decode()
        latency = dom[dom.index('<h2 id="latency">') : dom.index('<h2 id="workings">')]
        assert (
            re.findall(r'<tr>\s*<td class="number" data-number="[^"]+">(\d+)</td>', latency)
            == expected
        )
