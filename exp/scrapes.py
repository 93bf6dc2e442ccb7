"""What pages of Prometheus metrics tell of an engine or of the gateway, as rows for a table."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The metrics to read; None where there is none. Latencies are histograms, in seconds."""

    running: str
    waiting: str
    kv_cache_usage: str | None = None
    prompt_tokens: str | None = None
    generation_tokens: str | None = None
    preemptions: str | None = None
    ttft: str
    tpot: str | None = None
    e2e: str


VLLM = Names(
    running="vllm:num_requests_running",
    waiting="vllm:num_requests_waiting",
    kv_cache_usage="vllm:kv_cache_usage_perc",
    prompt_tokens="vllm:prompt_tokens_total",
    generation_tokens="vllm:generation_tokens_total",
    preemptions="vllm:num_preemptions_total",
    ttft="vllm:time_to_first_token_seconds",
    tpot="vllm:request_time_per_output_token_seconds",
    e2e="vllm:e2e_request_latency_seconds",
)
"""Of ``vllm/v1/metrics/loggers.py`` (0.32)."""
GATEWAY = Names(
    running="astrolabe_unit_outstanding_requests",
    waiting="astrolabe_queue_requests",
    ttft="astrolabe_time_to_first_token_seconds",
    e2e="astrolabe_e2e_request_latency_seconds",
)
OK = "ok"


@dataclass(frozen=True, slots=True)
class Scrape:
    """One page: the sum of each metric's samples, and how many there were."""

    time_s: float
    sums: dict[str, float]
    counts: dict[str, int]

    def sum(self, name: str | None) -> float | None:
        """None if the page has no such metric."""
        return None if name is None else self.sums.get(name)

    def mean(self, name: str | None) -> float | None:
        """Of a metric's samples (one for each engine of a server)."""
        total = self.sum(name)
        return None if total is None or name is None else total / self.counts[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A unit at one moment; None where nothing is known. Rates and means: since the row before."""

    time_s: float
    """UNIX."""
    unit: str
    state: str
    """``ok``, or why there are no figures."""
    num_running: float | None = None
    num_waiting: float | None = None
    kv_cache_usage: float | None = None
    prompt_tokens_per_s: float | None = None
    generation_tokens_per_s: float | None = None
    requests_per_s: float | None = None
    """That have ended."""
    preemptions_per_s: float | None = None
    ttft_mean_ms: float | None = None
    tpot_mean_ms: float | None = None
    e2e_mean_ms: float | None = None


COLUMNS = [field.name for field in fields(Row)]


def read_page(text: str, time_s: float) -> Scrape:
    """The figures of a page.

    Raises:
        ValueError: it is no page of metrics.
    """
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
            counts[sample.name] = counts.get(sample.name, 0) + 1
    return Scrape(time_s, sums, counts)


def row(unit: str, names: Names, now: Scrape, before: Scrape | None) -> Row:
    """What a scrape tells, together with the one before it."""
    return Row(
        time_s=now.time_s,
        unit=unit,
        state=OK,
        num_running=now.sum(names.running),
        num_waiting=now.sum(names.waiting),
        kv_cache_usage=now.mean(names.kv_cache_usage),
        prompt_tokens_per_s=_rate(names.prompt_tokens, now, before),
        generation_tokens_per_s=_rate(names.generation_tokens, now, before),
        requests_per_s=_rate(f"{names.e2e}_count", now, before),
        preemptions_per_s=_rate(names.preemptions, now, before),
        ttft_mean_ms=_mean_ms(names.ttft, now, before),
        tpot_mean_ms=_mean_ms(names.tpot, now, before),
        e2e_mean_ms=_mean_ms(names.e2e, now, before),
    )


def _grown(name: str | None, now: Scrape, before: Scrape | None) -> float | None:
    """By how much a counter has grown; None if that is not known, as after a restart."""
    if before is None:
        return None
    value, former = now.sum(name), before.sum(name)
    return None if value is None or former is None or value < former else value - former


def _rate(name: str | None, now: Scrape, before: Scrape | None) -> float | None:
    grown = _grown(name, now, before)
    return None if grown is None or before is None else grown / (now.time_s - before.time_s)


def _mean_ms(name: str | None, now: Scrape, before: Scrape | None) -> float | None:
    if name is None:
        return None
    seconds = _grown(f"{name}_sum", now, before)
    count = _grown(f"{name}_count", now, before)
    return seconds / count * 1e3 if seconds is not None and count else None


def cells(row: Row) -> list[str]:
    """A row as it stands in the file: empty cells for what is not known."""
    values = [getattr(row, name) for name in COLUMNS]
    return [
        "" if v is None else f"{v:.6g}" if name != "time_s" and isinstance(v, float) else str(v)
        for name, v in zip(COLUMNS, values, strict=True)
    ]


def read_rows(file: Path) -> list[Row]:
    """The rows of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not such a file; names the line.
    """
    with file.open(newline="") as source:
        return list(_parsed(csv.reader(source), file))


def _parsed(lines: Iterable[list[str]], file: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if number == 1:
            if line != COLUMNS:
                raise ValueError(f"{file}: the first line must be {','.join(COLUMNS)}")
            continue
        if len(line) != len(COLUMNS):
            continue  # cut off as it was written
        given = dict(zip(COLUMNS, line, strict=True))
        unit, state = given.pop("unit"), given.pop("state")
        try:
            known = {name: float(text) for name, text in given.items() if text}
            yield Row(unit=unit, state=state, **known)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{file}:{number}: {error}") from error
