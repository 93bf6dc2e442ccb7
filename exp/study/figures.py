"""The figures of one run, by name; what ``summary.json`` lists.

Of ``all`` requests and of each class (``short.``, ``long.`` ...):

=============================  =====================================================================
``all.requests``               how many there were
``all.answered_share``         ended well; also ``rejected_share`` (429) and ``failed_share``
``all.good_share``             ended well and within the goals of their class
``all.throughput_per_s``       answers per second, from the first arrival to the last answer
``all.goodput_per_s``          the same, good ones only; ``output_tokens_per_s``
``all.ttft_ms.p99``            also ``mean``, ``p50`` and ``p90``; also ``tpot_ms``, ``e2e_ms`` and
                               ``waited_ms`` (in the gateway's queue)
=============================  =====================================================================

Of the run:

=============================  =====================================================================
``duration_s``                 from the first arrival to the last answer
``decision_ms.p99``            as above: asking and choosing
``deciding_share``             all of it over the duration; in the twin: the share of a core
``prediction.e2e_error``       mean of |predicted - true| / true
``prediction.e2e_bias``        median of (predicted - true) / true
``prediction.ttft_error_ms``   mean of |predicted - true|
``prediction.length_error``    of expected output tokens, as ``e2e_error``
``preemptions_per_request``    also ``migrations_per_request``
``stolen_share``               taken by a unit of the other pool
``cached_share``               prompt tokens found in a prefix cache, of all
``units_busy``                 mean number of units with a request in flight
``cpu.gateway``                cores in use; also ``cpu.sidecars``. Emulated backend only
=============================  =====================================================================

A figure that nothing was measured for is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from exp.study.tables import SCHEMA

Array = np.ndarray[Any, np.dtype[Any]]
Columns = dict[str, Array]
LATENCIES = ("ttft_ms", "tpot_ms", "e2e_ms", "waited_ms")
OUTCOMES = {
    "answered_share": ("ok",),
    "rejected_share": ("rejected",),
    "failed_share": ("failed", "lost"),
}


def case_figures(table: pa.Table) -> dict[str, float]:
    """Of a run's rows. Empty for a run without requests."""
    columns = {name: _array(table[name]) for name in SCHEMA.names}
    if not len(columns["at_s"]):
        return {}
    ends_s = columns["at_s"] + np.nan_to_num(columns["e2e_ms"]) / 1e3
    duration_s = max(float(ends_s.max() - columns["at_s"].min()), 1e-9)
    figures = {"duration_s": duration_s}
    classes = sorted(set(columns["request_class"]))
    for name in ("all", *classes):
        rows = np.full(len(ends_s), True) if name == "all" else columns["request_class"] == name
        of_class = {key: column[rows] for key, column in columns.items()}
        for key, value in _class_figures(of_class, duration_s).items():
            figures[f"{name}.{key}"] = value
    figures |= _run_figures(columns, duration_s)
    return {key: round(value, 6) for key, value in figures.items() if np.isfinite(value)}


def _array(column: pa.ChunkedArray) -> Array:
    """Missing numbers become NaN."""
    values = column.to_numpy()
    array: Array = values.astype(str) if values.dtype == object else values
    return array


def _class_figures(columns: Columns, duration_s: float) -> dict[str, float]:
    outcomes = columns["outcome"]
    is_ok = outcomes == "ok"
    figures = {"requests": float(len(outcomes))}
    for name, members in OUTCOMES.items():
        figures[name] = float(np.isin(outcomes, members).mean())
    figures["good_share"] = float(columns["is_good"].mean())
    figures["throughput_per_s"] = float(is_ok.sum()) / duration_s
    figures["goodput_per_s"] = float(columns["is_good"].sum()) / duration_s
    figures["output_tokens_per_s"] = float(columns["num_output_tokens"].sum()) / duration_s
    for name in LATENCIES:
        figures |= _latency(name, columns[name][is_ok])
    return figures


def _latency(name: str, values_ms: Array) -> dict[str, float]:
    """Mean and percentiles of those that are known."""
    known = values_ms[~np.isnan(values_ms)]
    if not len(known):
        return {}
    p50, p90, p99 = np.percentile(known, (50, 90, 99))
    return {
        f"{name}.mean": float(known.mean()),
        f"{name}.p50": float(p50),
        f"{name}.p90": float(p90),
        f"{name}.p99": float(p99),
    }


def _run_figures(columns: Columns, duration_s: float) -> dict[str, float]:
    num_requests = len(columns["at_s"])
    num_prompt_tokens = max(1, int(columns["num_prompt_tokens"].sum()))
    decision_ms = columns["decision_ms"]
    is_measured = ~np.isnan(decision_ms).all()
    return {
        **_latency("decision_ms", decision_ms),
        "deciding_share": float(np.nansum(decision_ms)) / 1e3 / duration_s
        if is_measured
        else np.nan,
        **_prediction_figures(columns),
        "preemptions_per_request": float(columns["num_preemptions"].sum()) / num_requests,
        "migrations_per_request": float(columns["num_migrations"].sum()) / num_requests,
        "stolen_share": float(columns["is_stolen"].mean()),
        "cached_share": float(columns["num_cached_tokens"].sum()) / num_prompt_tokens,
        "units_busy": _units_busy(columns, duration_s),
    }


def _prediction_figures(columns: Columns) -> dict[str, float]:
    figures: dict[str, float] = {}
    is_ok = columns["outcome"] == "ok"
    e2e = _relative(columns["predicted_e2e_ms"][is_ok], columns["e2e_ms"][is_ok])
    if len(e2e):
        figures["prediction.e2e_error"] = float(np.abs(e2e).mean())
        figures["prediction.e2e_bias"] = float(np.median(e2e))
    ttft_ms = (columns["predicted_ttft_ms"] - columns["ttft_ms"])[is_ok]
    if not np.isnan(ttft_ms).all():
        figures["prediction.ttft_error_ms"] = float(np.nanmean(np.abs(ttft_ms)))
    length = _relative(
        columns["expected_output_tokens"][is_ok], columns["num_output_tokens"][is_ok].astype(float)
    )
    if len(length):
        figures["prediction.length_error"] = float(np.abs(length).mean())
    return figures


def _relative(predicted: Array, true: Array) -> Array:
    """(predicted - true) / true, of the pairs that are known."""
    is_known = ~np.isnan(predicted) & (true > 0)
    errors: Array = (predicted[is_known] - true[is_known]) / true[is_known]
    return errors


def _units_busy(columns: Columns, duration_s: float) -> float:
    """Each unit's time with at least one request in flight, summed, over the duration."""
    busy_s = 0.0
    starts_s = columns["at_s"] + np.nan_to_num(columns["waited_ms"]) / 1e3
    ends_s = columns["at_s"] + np.nan_to_num(columns["e2e_ms"]) / 1e3
    for unit in set(columns["unit"]) - {""}:
        rows = columns["unit"] == unit
        order = np.argsort(starts_s[rows], kind="stable")
        start_s, end_s = starts_s[rows][order], ends_s[rows][order]
        until_s = np.maximum.accumulate(end_s)
        new_from_s = np.maximum(start_s, np.append(-np.inf, until_s[:-1]))
        busy_s += float((until_s - new_from_s).clip(0).sum())
    return busy_s / duration_s
