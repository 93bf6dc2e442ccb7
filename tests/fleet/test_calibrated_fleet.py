"""Predictions of an engine that its data sheet describes wrongly, before and after its outcomes."""

from __future__ import annotations

import re
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from exp.fleet.local import emulated_plan
from exp.fleet.plan import Plan
from tests.fleet.running import RunningFleet, run_fleet

MODEL = "meta-llama/Llama-2-7b-hf"
NUM_REQUESTS = 60


def test_outcomes_make_predictions_right(tmp_path: Path) -> None:
    """Four times as slow as the roofline says, and no step times learnt: the error of E2E falls,
    and the sidecar's metrics say what was learnt."""
    with run_fleet(_plan, tmp_path) as fleet:
        with ThreadPoolExecutor(3) as clients:
            list(clients.map(lambda number: _complete(fleet, number), range(NUM_REQUESTS)))
        decisions = fleet.get("/admin/decisions")
        first, last = _median_error(decisions[:10]), _median_error(decisions[-30:])
        assert first > 0.4
        assert last < 0.2
        metrics = _sidecar_metrics(fleet)
    assert _value(metrics, 'astrolabe_predictor_outcomes_total{latency="e2e"}') > NUM_REQUESTS / 2
    assert _value(metrics, 'astrolabe_predictor_error{latency="e2e"}') < 0.5


def _plan(offset: int) -> Plan:
    plan = emulated_plan(1, 0.25, offset)
    parts = tuple(
        replace(part, command=(*part.command, "--no-learn")) if part.role == "sidecar" else part
        for part in plan.parts
    )
    return replace(plan, parts=parts)


def _complete(fleet: RunningFleet, number: int) -> None:
    with fleet.client() as client:
        answer = client.completions.create(
            model=MODEL,
            prompt=f"Star {number} " * (5 + number % 50),
            max_tokens=4,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        for _ in answer:
            pass


def _median_error(decisions: list[dict[str, Any]]) -> float:
    pairs: list[tuple[float, float]] = [
        (each["predicted_e2e_ms"], each["observed_e2e_ms"])
        for each in decisions
        if each["predicted_e2e_ms"] is not None and each["observed_e2e_ms"] is not None
    ]
    return median(abs(predicted_ms / observed_ms - 1.0) for predicted_ms, observed_ms in pairs)


def _sidecar_metrics(fleet: RunningFleet) -> str:
    (unit,) = fleet.get("/admin/units")
    with urllib.request.urlopen(unit["predictor_url"] + "/metrics", timeout=120) as response:
        text: str = response.read().decode()
    return text


def _value(metrics: str, name: str) -> float:
    found = re.search(re.escape(name) + r" (\S+)", metrics)
    assert found is not None
    return float(found[1])
