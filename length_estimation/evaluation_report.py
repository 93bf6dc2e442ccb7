"""What an evaluation found, as tables for people, as JSON and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from length_estimation.accuracy import Accuracy
from length_estimation.evaluation import Evaluation

COLUMNS = {
    "mae": "MAE",
    "mape": "MAPE",
    "acc_50": "Acc-50",
    "acc_100": "Acc-100",
    "kendall_tau": "tau",
    "r2": "R2",
    "pinball": "pinball",
    "coverage_80": "coverage-80",
}
PERCENT = {"mape", "acc_50", "acc_100", "coverage_80"}


def tables(evaluations: Mapping[str, Evaluation]) -> str:
    """One table of all examples with times, and one for each kind of request."""
    rows = {
        name: [*_cells(one.overall), f"{one.latency.single_ms_p50:.2f}", _rate(one)]
        for name, one in evaluations.items()
    }
    parts = [_table(["all", *COLUMNS.values(), "ms single", "per s in 64s"], rows)]
    for kind in _kinds(evaluations):
        rows = {name: _cells(one.by_kind[kind]) for name, one in evaluations.items()}
        parts.append(_table([kind, *COLUMNS.values()], rows))
    return "\n\n".join(parts)


def figures(evaluations: Mapping[str, Evaluation]) -> dict[str, Any]:
    """``methods`` and ``by_kind``, whose parts are methods again: all figures, rounded."""
    return {
        "methods": {
            name: _rounded({**asdict(one.overall), **asdict(one.latency)})
            for name, one in evaluations.items()
        },
        "by_kind": {
            kind: {name: _rounded(asdict(one.by_kind[kind])) for name, one in evaluations.items()}
            for kind in _kinds(evaluations)
        },
    }


def draw(
    evaluations: Mapping[str, Evaluation],
    num_output_tokens: NDArray[np.int64],
    levels: Sequence[float],
    file: Path,
) -> None:
    """Draw calibration of all methods, and the first one's medians against the truth.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # only figures need it

    figure = Figure(figsize=(11, 5), layout="constrained")
    calibration, scatter = figure.subplots(1, 2)
    log_true = np.log(num_output_tokens)[:, None]
    for name, one in evaluations.items():
        share = (log_true <= one.predictions.log_quantiles).mean(axis=0)
        calibration.plot(levels, share, marker="o", markersize=3, label=name)
    calibration.plot([0, 1], [0, 1], color="grey", linestyle=":")
    calibration.set(xlabel="quantile", ylabel="share of answers not longer", title="Calibration")
    calibration.legend()
    name, one = next(iter(evaluations.items()))
    scatter.loglog(one.predictions.tokens, num_output_tokens, ".", alpha=0.3)
    scatter.plot([1, 4096], [1, 4096], color="grey", linestyle=":")
    scatter.set(xlabel=f"predicted by {name}, tokens", ylabel="answered, tokens", title="Lengths")
    figure.savefig(file, dpi=150)


def _kinds(evaluations: Mapping[str, Evaluation]) -> list[str]:
    return list(next(iter(evaluations.values())).by_kind)


def _cells(found: Accuracy) -> list[str]:
    def cell(key: str, value: float) -> str:
        if key in PERCENT:
            return f"{value:.1%}"
        return f"{value:.1f}" if key == "mae" else f"{value:.3f}"

    return [cell(key, getattr(found, key)) for key in COLUMNS]


def _rate(found: Evaluation) -> str:
    return f"{found.latency.batch64_per_s:.0f}"


def _table(header: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Columns as wide as their widest cell, numbers to the right."""
    lines = [list(header), *([name, *cells] for name, cells in rows.items())]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in lines
    )


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {key: round(value, 4) for key, value in values.items()}
