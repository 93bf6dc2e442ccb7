"""What runs of benchmarks.pools came to. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from benchmarks.pool_scenarios import BASIS
from exp.workloads.mixed import LONG, SHORT

CLASSES = (SHORT, LONG)
OF_A_CLASS = ("ttft_ms_p50", "ttft_ms_p99", "goodput_share")
OF_A_RUN = ("moves", "steals", "rejected", "failed", "lost", "cpu_idle_share", "late_ms_p99")


class PoolRun(msgspec.Struct, kw_only=True, frozen=True):
    """One trace under one configuration."""

    configuration: str
    seed: int
    figures: dict[str, dict[str, float | None]]
    """By class, and of all requests: see ``exp.workloads.summary``."""
    ttft_ms: dict[str, list[float]]
    """By class, of the requests that were answered."""
    moves: int
    """Units that changed pool."""
    steals: int
    cpu_idle_share: float
    """Of this machine's cores, while requests were sent."""


class PoolStudy(msgspec.Struct, kw_only=True, frozen=True):
    """All runs, and what they were."""

    engine: str
    num_units: int
    duration_s: float
    ttft_goal_ms: dict[str, float]
    runs: list[PoolRun]


def summarise(runs: Sequence[PoolRun]) -> dict[str, Any]:
    """By configuration: median, least and most over the seeds, and beside the basis's runs."""
    names = dict.fromkeys(run.configuration for run in runs)
    basis = {run.seed: run for run in runs if run.configuration == BASIS}
    return {
        name: _figures([run for run in runs if run.configuration == name], basis) for name in names
    }


def _figures(runs: Sequence[PoolRun], basis: dict[int, PoolRun]) -> dict[str, Any]:
    found: dict[str, Any] = {
        f"{request_class}_{name}": _spread(runs, _of_class(request_class, name))
        for request_class in CLASSES
        for name in OF_A_CLASS
    }
    found |= {name: _spread(runs, _of_run(name)) for name in OF_A_RUN}
    if basis and runs[0].configuration != BASIS:
        found |= {
            f"{request_class}_ttft_ms_{p}_over_{BASIS}": _spread(
                runs, _ratio(_of_class(request_class, f"ttft_ms_{p}"), basis)
            )
            for request_class in CLASSES
            for p in ("p50", "p99")
        }
    return found


Figure = Callable[[PoolRun], "float | None"]


def _of_class(request_class: str, name: str) -> Figure:
    return lambda run: run.figures[request_class][name] if request_class in run.figures else None


def _of_run(name: str) -> Figure:
    def figure(run: PoolRun) -> float | None:
        return run.figures["all"][name] if name in run.figures["all"] else getattr(run, name)

    return figure


def _ratio(figure: Figure, basis: dict[int, PoolRun]) -> Figure:
    """To the basis's run of the same trace."""

    def ratio(run: PoolRun) -> float | None:
        mine, other = figure(run), figure(basis[run.seed]) if run.seed in basis else None
        return mine / other if mine is not None and other else None

    return ratio


def _spread(runs: Sequence[PoolRun], figure: Figure) -> list[float] | None:
    """Median, least, most; None where no run has it."""
    values = [value for run in runs if (value := figure(run)) is not None]
    if not values:
        return None
    return [round(found, 3) for found in (statistics.median(values), min(values), max(values))]


def read_study(text: bytes) -> PoolStudy:
    """The file that ``benchmarks.pools --output`` writes.

    Raises:
        ValueError: it is none.
    """
    try:
        return msgspec.json.decode(text, type=PoolStudy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error
