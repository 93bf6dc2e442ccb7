"""The benchmark of the queues runs and prints what the documentation quotes."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import queues
from global_scheduler.queueing import ORDERS


def test_the_queue_benchmark_prints_its_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every order is measured, and looking at a full fleet costs far less than a departure."""
    monkeypatch.setattr(sys, "argv", ["queues", "--rounds", "1"])
    assert queues.main() == 0
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    departures = figures["departure_us_at_1000_waiting"]
    assert set(departures) == set(ORDERS)
    assert 0 < figures["vain_wake_us_at_1000_waiting"] < min(departures.values())
    assert all(cost_us > 0 for cost_us in figures["pass_us_by_units"].values())
