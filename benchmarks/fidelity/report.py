"""Errors of predictions, and of step-time models, as tables and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.fidelity.loads import WARM_UP
from benchmarks.fidelity.predictions import Latencies, Outcome, predict_run
from benchmarks.fidelity.recording import Run, SentRecord
from benchmarks.fidelity.step_models import step_errors
from exp.fleet.display import table
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from wire.model_config import load_model_config

MIN_TOKENS_FOR_TPOT = 8
"""Of shorter answers the mean time of a token is one or two gaps, which the network reorders."""


def report(run: Run, project: Path) -> tuple[str, dict[str, Any]]:
    """Tables for people, and all figures."""
    model = load_model_config(project / run.model_config)
    prior = RooflineStepTime(model, find_gpu(run.gpu))
    with tqdm(total=len(run.requests), unit="prediction", disable=None) as progress:
        outcomes = predict_run(run, prior, model, progress.update)
    counted = [outcome for outcome in outcomes if outcome.request.load != WARM_UP]
    kinds = list(counted[0].predicted)
    loads = dict.fromkeys(outcome.request.load for outcome in counted)
    overall = {kind: errors(counted, kind) for kind in kinds}
    by_load = {
        load: {kind: errors([o for o in counted if o.request.load == load], kind) for kind in kinds}
        for load in loads
    }
    of_steps = step_errors(run, prior, model)
    tables = [
        _table("all loads", overall),
        *(_table(load, figures) for load, figures in by_load.items()),
        _table("steps", of_steps),
    ]
    figures: dict[str, Any] = {
        **overall,
        "by_load": by_load,
        "step_time": of_steps,
        "engine": run.engine,
        "requests": len(counted),
        "failed": run.num_failed,
        "load_average": round(run.load_average, 2),
    }
    return "\n\n".join(tables), figures


def errors(outcomes: Sequence[Outcome], kind: str) -> dict[str, float | None]:
    """Mean and median absolute errors relative to what the clients observed."""
    e2e = _errors(outcomes, kind, lambda p: p.e2e_ms, lambda r: r.e2e_ms)
    ttft = _errors(outcomes, kind, lambda p: p.ttft_ms, lambda r: r.ttft_ms)
    longer = [o for o in outcomes if o.request.num_output_tokens >= MIN_TOKENS_FOR_TPOT]
    tpot = _errors(longer, kind, lambda p: p.tpot_ms, lambda r: r.tpot_ms)
    return {
        "e2e_mape": _mean(e2e),
        "e2e_median_ape": round(statistics.median(e2e), 4) if e2e else None,
        "ttft_mape": _mean(ttft),
        "tpot_mape": _mean(tpot),
    }


def _errors(
    outcomes: Iterable[Outcome],
    kind: str,
    predicted: Callable[[Latencies], float | None],
    observed: Callable[[SentRecord], float | None],
) -> list[float]:
    pairs = ((predicted(o.predicted[kind]), observed(o.request)) for o in outcomes)
    return [abs(p - o) / o for p, o in pairs if p is not None and o]


def _mean(values: Sequence[float]) -> float | None:
    return round(statistics.fmean(values), 4) if values else None


def _table(title: str, rows: Mapping[str, Mapping[str, float | None]]) -> str:
    """R2 as a number, errors in percent."""
    columns = list(next(iter(rows.values())))

    def cell(name: str, value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" if name.endswith("r2") else f"{value:.1%}"

    cells = [[key, *(cell(name, row[name]) for name in columns)] for key, row in rows.items()]
    return table([title, *columns], cells)
