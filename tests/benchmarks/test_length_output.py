"""The benchmark of the length estimator runs and prints what the documentation quotes."""

from __future__ import annotations

from pathlib import Path

from tests.benchmarks.test_output import last_line
from tests.length_estimation.tiny_model import write_model_folder


def test_the_length_benchmark_prints_its_figures(tmp_path: Path) -> None:
    """Short rounds with a tiny model: the cache is quicker than the model, batches share work."""
    folder = write_model_folder(tmp_path)
    figures = last_line("benchmarks.length", "--model-folder", str(folder), "--seconds", "0.2")
    assert 0 < figures["single_ms_p50"] <= figures["single_ms_p99"]
    assert figures["cached_us_p50"] < figures["single_ms_p50"] * 1e3
    assert figures["batch64_per_s"] > 1e3 / figures["single_ms_p99"]
    assert figures["batch64_200_tokens_per_s"] > 0
    assert figures["rss_mb"] > 0
    assert figures["load_s"] > 0
