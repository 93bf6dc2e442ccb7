"""What runs of a fleet, as rows for a table or for another machine."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from exp.fleet.display import table
from exp.fleet.health import healthy_titles
from exp.fleet.state import Fleet, Store
from predictor.vllm_plugin.shared_memory import published_engine_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class PartStatus:
    """One row."""

    role: str
    name: str
    pid: int | None
    """None for a server that someone else runs, or a part that does not run."""
    url: str
    state: str
    """``healthy``, ``not answering`` or ``not running``."""
    uptime_s: float | None
    snapshot: str | None = None
    """Where an engine publishes its state just now, as ``predictor record --snapshot`` takes it."""


def fleet_status(store: Store) -> list[PartStatus]:
    """A row for each planned part; none when no fleet was started."""
    fleet = store.try_load()
    return [] if fleet is None else _rows(fleet, time.time())


def _rows(fleet: Fleet, now: float) -> list[PartStatus]:
    healthy = healthy_titles(fleet.plan.parts)
    running = {item.part.title: item for item in fleet.running}
    published = set(published_engine_ids())
    rows = []
    for part in fleet.plan.parts:
        item = running.get(part.title)
        if part.is_ours and item is None:
            state = "not running"
        else:
            state = "healthy" if part.title in healthy else "not answering"
        rows.append(
            PartStatus(
                role=part.role,
                name=part.name,
                pid=item.process.pid if item else None,
                url=part.url,
                state=state,
                uptime_s=now - item.started_at if item else None,
                snapshot=f"shm:{part.engine_id}" if part.engine_id in published else None,
            )
        )
    return rows


def status_table(rows: list[PartStatus]) -> str:
    """The rows for people."""
    header = ("ROLE", "NAME", "PID", "ADDRESS", "STATE", "UPTIME", "SNAPSHOT")
    return table(header, [_cells(row) for row in rows])


def _cells(row: PartStatus) -> tuple[str, ...]:
    pid = "-" if row.pid is None else str(row.pid)
    uptime = _duration(row.uptime_s)
    return (row.role, row.name, pid, row.url, row.state, uptime, row.snapshot or "-")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, s = divmod(int(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}h {m:02}m" if hours else f"{m}m {s:02}s"


def as_dict(row: PartStatus) -> dict[str, object]:
    """For JSON."""
    return dataclasses.asdict(row)
