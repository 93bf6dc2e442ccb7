"""The benchmark of pools: what it prints, how runs are compared, and the figure drawn of them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from analysis.pools_plot import main as plot
from benchmarks.pool_figures import PoolRun, PoolStudy, read_study, summarise
from tests.benchmarks.test_output import last_line


def run(configuration: str, seed: int, ttft_ms: float) -> PoolRun:
    """A run in which all requests of a class waited alike, long ones twice as long."""
    waits = {"short": ttft_ms, "long": 2 * ttft_ms}
    whole: dict[str, float | None] = {
        "rejected": 0.0,
        "failed": 0.0,
        "lost": 0.0,
        "late_ms_p99": 1.0,
    }
    return PoolRun(
        configuration=configuration,
        seed=seed,
        figures={"all": whole, **{name: _figures(wait) for name, wait in waits.items()}},
        ttft_ms={name: [wait] * 20 for name, wait in waits.items()},
        moves=seed,
        steals=0,
        cpu_idle_share=0.5,
    )


def _figures(wait_ms: float) -> dict[str, float | None]:
    return {"ttft_ms_p50": wait_ms, "ttft_ms_p99": wait_ms, "goodput_share": 0.5}


RUNS = [
    *(run("predictive", seed, wait) for seed, wait in enumerate((100.0, 200.0, 400.0))),
    *(run("none", seed, wait) for seed, wait in enumerate((300.0, 200.0, 800.0))),
]


def test_runs_are_compared_trace_by_trace() -> None:
    """Median, least and most; ratios to the run of predictive with the same trace."""
    found = summarise(RUNS)
    assert found["predictive"]["short_ttft_ms_p50"] == [200, 100, 400]
    assert found["none"]["long_ttft_ms_p99"] == [600, 400, 1600]
    assert found["none"]["short_ttft_ms_p99_over_predictive"] == [2, 1, 3]
    assert found["none"]["moves"] == [1, 0, 2]
    assert "short_ttft_ms_p99_over_predictive" not in found["predictive"]
    alone = summarise(RUNS[3:])["none"]
    assert "short_ttft_ms_p99_over_predictive" not in alone


def test_a_result_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As a picture for screens and one for print; a damaged file is named."""
    study = PoolStudy(
        engine="emulated", num_units=4, duration_s=5.0, ttft_goal_ms={"short": 1e3}, runs=RUNS
    )
    result, picture = tmp_path / "pools.json", tmp_path / "figures" / "pools.png"
    result.write_bytes(msgspec.json.encode(study))
    assert read_study(result.read_bytes()) == study
    assert plot([str(result), "--output", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    result.write_bytes(b"{}")
    assert plot([str(result), "--output", str(picture)]) == 2
    assert "pools.json" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_of_pools_prints_its_figures() -> None:
    """A short trace under two configurations: all answered, and compared."""
    figures = last_line(
        *("benchmarks.pools", "--quick", "--units", "2", "--duration", "5"),
        *("--configurations", "none", "predictive"),
    )
    assert (figures["units"], figures["seeds"]) == (2, 1)
    for name in ("none", "predictive"):
        found: dict[str, list[float]] = figures[name]  # type: ignore[assignment]
        assert found["lost"] == found["failed"] == found["rejected"] == [0, 0, 0]
        assert 0 < found["short_ttft_ms_p50"][0] <= found["short_ttft_ms_p99"][0]
        assert found["long_goodput_share"][0] > 0
    assert "short_ttft_ms_p99_over_predictive" in figures["none"]  # type: ignore[operator]
