"""The benchmark of prefixes runs and prints what the documentation quotes."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import prefixes


def test_the_prefix_benchmark_prints_its_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every size is measured, and a look-up costs the same whatever the prompt's length."""
    monkeypatch.setattr(sys, "argv", ["prefixes", "--rounds", "5"])
    assert prefixes.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    costs_us = figures["us_by_characters"]
    assert list(costs_us) == [str(size) for size in prefixes.SIZES]
    assert 0 < costs_us["4000"]["hash"] < costs_us["1000000"]["hash"]
    assert costs_us["1000000"]["look_up"] < costs_us["4000"]["hash"]
    assert 0 < figures["unit_mb"]["16384"] < figures["unit_mb"]["65536"] < 10
