"""Figures of a run's records."""

from __future__ import annotations

from typing import Any

import pytest

from exp.study.figures import case_figures
from exp.study.records import RequestRecord
from exp.study.tables import to_table


def record(index: int, **fields: Any) -> RequestRecord:
    known: dict[str, Any] = {
        "request_id": str(index),
        "at_s": float(index),
        "request_class": "short",
        "outcome": "ok",
        "unit": "unit-01",
        "num_prompt_tokens": 100,
        "num_output_tokens": 11,
        "ttft_ms": 100.0,
        "tpot_ms": 40.0,
        "e2e_ms": 500.0,
        "is_good": True,
    }
    return RequestRecord(**known | fields)


def test_shares_and_rates_are_of_all_requests_from_the_first_arrival_to_the_last_answer() -> None:
    """Four requests in four seconds: two good answers, one late one, one refusal."""
    figures = case_figures(
        to_table(
            [
                record(0),
                record(1),
                record(2, outcome="rejected", ttft_ms=None, e2e_ms=None, is_good=False,
                       num_output_tokens=0, unit=""),
                record(3, e2e_ms=1_000.0, is_good=False),
            ]
        )
    )  # fmt: skip
    assert figures["duration_s"] == 4.0
    assert figures["all.answered_share"] == 0.75
    assert figures["all.rejected_share"] == 0.25
    assert figures["all.good_share"] == 0.5
    assert figures["all.throughput_per_s"] == 0.75
    assert figures["all.goodput_per_s"] == 0.5
    assert figures["all.output_tokens_per_s"] == 33 / 4


def test_latencies_are_those_of_answered_requests_in_each_class() -> None:
    """A failed request's first token counts for nothing; classes are told apart."""
    figures = case_figures(
        to_table(
            [
                record(0, ttft_ms=100.0),
                record(1, ttft_ms=200.0),
                record(2, ttft_ms=900.0, request_class="long"),
                record(3, ttft_ms=9_000.0, outcome="failed"),
            ]
        )
    )
    assert figures["short.ttft_ms.mean"] == 150.0
    assert figures["long.ttft_ms.p99"] == 900.0
    assert figures["all.ttft_ms.p50"] == 200.0
    assert figures["short.requests"] == 3


def test_prediction_errors_are_relative_to_what_happened() -> None:
    """Mean of the absolute ones, median of the signed ones; what was not predicted is left out."""
    figures = case_figures(
        to_table(
            [
                record(0, predicted_e2e_ms=400.0, predicted_ttft_ms=130.0),
                record(1, predicted_e2e_ms=400.0, predicted_ttft_ms=90.0),
                record(2, predicted_e2e_ms=600.0),
                record(3, expected_output_tokens=22.0),
            ]
        )
    )
    assert figures["prediction.e2e_error"] == pytest.approx(0.2)
    assert figures["prediction.e2e_bias"] == pytest.approx(-0.2)
    assert figures["prediction.ttft_error_ms"] == pytest.approx(20.0)
    assert figures["prediction.length_error"] == pytest.approx(1.0)


def test_units_are_busy_while_a_request_is_on_them() -> None:
    """Overlapping requests count once, time in the gateway's queue does not."""
    figures = case_figures(
        to_table(
            [
                record(0, at_s=0.0, e2e_ms=2_000.0),
                record(1, at_s=1.0, e2e_ms=2_000.0),
                record(2, at_s=5.0, e2e_ms=5_000.0, waited_ms=1_000.0, unit="unit-02"),
            ]
        )
    )
    assert figures["units_busy"] == pytest.approx((3.0 + 4.0) / 10.0)


def test_what_was_not_measured_is_left_out() -> None:
    """No decision times, no predictions: no figures of them; and none at all of no requests."""
    figures = case_figures(to_table([record(0)]))
    assert not any(name.startswith(("decision", "deciding", "prediction")) for name in figures)
    assert case_figures(to_table([])) == {}
