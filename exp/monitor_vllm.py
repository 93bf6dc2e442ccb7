"""Watch vLLM servers, and the gateway: read their /metrics at an interval and write CSV.

A row for each unit and moment: requests running and waiting, use of the KV cache, tokens a second,
mean latencies since the row before. A unit that does not answer gets a row that says so, and the
others go on. The units of a gateway are asked for anew each time, so that those that join are seen.
Ctrl-C ends it; analysis/monitor_plot.py draws what was written.

examples:
  python -m exp.monitor_vllm                                   the gateway on port 8200, its units
  python -m exp.monitor_vllm --unit a=http://127.0.0.1:8001 --unit b=http://127.0.0.1:8002
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import aiohttp

from exp.fleet.arguments import above_zero
from exp.scrapes import COLUMNS, GATEWAY, OK, VLLM, Names, Row, Scrape, cells, read_page, row

TIMEOUT_S = 2.0
GATEWAY_NAME = "gateway"


@dataclass(slots=True)
class Watched:
    """What is watched, and the last scrape of each."""

    units: Mapping[str, str]
    """URLs by name; empty: those that the gateway has."""
    gateway: str | None
    admin_token: str | None = None
    _before: dict[str, Scrape] = field(default_factory=dict)

    async def rows(self, session: aiohttp.ClientSession) -> list[Row]:
        """One for each, all asked at once."""
        pages: list[tuple[str, str, Names]] = []
        trouble: list[Row] = []
        if self.gateway is not None:
            pages.append((GATEWAY_NAME, self.gateway, GATEWAY))
        units = self.units
        if not units:
            try:
                units = await self._units_of_gateway(session)
            except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, LookupError) as error:
                trouble.append(_silent(GATEWAY_NAME, f"its units are unknown: {_told(error)}"))
        pages += [(name, url, VLLM) for name, url in units.items()]
        found = await asyncio.gather(*(self._row(session, *page) for page in pages))
        return [*found, *trouble]

    async def _row(self, session: aiohttp.ClientSession, name: str, url: str, names: Names) -> Row:
        try:
            async with session.get(f"{url}/metrics", raise_for_status=True) as response:
                now = read_page(await response.text(), time.time())
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            self._before.pop(name, None)
            return _silent(name, _told(error))
        before, self._before[name] = self._before.get(name), now
        return row(name, names, now, before)

    async def _units_of_gateway(self, session: aiohttp.ClientSession) -> dict[str, str]:
        headers = {"authorization": f"Bearer {self.admin_token}"} if self.admin_token else {}
        url = f"{self.gateway}/admin/units"
        async with session.get(url, headers=headers, raise_for_status=True) as response:
            return {unit["name"]: unit["engine_url"] for unit in await response.json()}


def _silent(name: str, reason: str) -> Row:
    return Row(time_s=time.time(), unit=name, state=reason)


def _told(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, aiohttp.ClientResponseError):
        return f"HTTP {error.status}"
    return str(error) or type(error).__name__


async def watch(
    watched: Watched, output: TextIO, *, interval_s: float, duration_s: float | None
) -> int:
    """Write rows until the time is over or a signal comes; returns how many were written."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    writer = csv.writer(output)
    writer.writerow(COLUMNS)
    count, started_s = 0, loop.time()
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while not ended.is_set():
            rows = await watched.rows(session)
            writer.writerows(map(cells, rows))
            output.flush()
            count += len(rows)
            elapsed_s = loop.time() - started_s
            _show(rows, elapsed_s)
            if duration_s is not None and elapsed_s + interval_s > duration_s:
                break
            try:
                # At multiples of the interval, however long the scrape took.
                await asyncio.wait_for(ended.wait(), interval_s - elapsed_s % interval_s)
            except asyncio.TimeoutError:
                continue
    return count


def _show(rows: Sequence[Row], elapsed_s: float) -> None:
    """One line that is written over, where there is a terminal."""
    if not sys.stderr.isatty():
        return
    shown = (
        f"{one.unit} {one.num_running or 0:g}+{one.num_waiting or 0:g}"
        if one.state == OK
        else f"{one.unit} !"
        for one in rows
    )
    line = f"{elapsed_s:.0f} s  running+waiting: {'  '.join(shown)}"
    print(f"\r\033[K{line[:118]}", end="", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m exp.monitor_vllm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--unit",
        type=_unit,
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a vLLM server; repeat for each (default: those of the gateway)",
    )
    add("--gateway", metavar="URL", help="(default, without --unit: http://127.0.0.1:8200)")
    add("--admin-token", help="of the gateway")
    add("--interval", type=above_zero, default=1.0, metavar="SECONDS", help="(default: 1)")
    add("--duration", type=above_zero, metavar="SECONDS", help="(default: until Ctrl-C)")
    add("--output", type=Path, default=Path(".astrolabe/monitor.csv"), help="(%(default)s)")
    return made


def _unit(text: str) -> tuple[str, str]:
    name, _, url = text.partition("=")
    if not name or not url.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"NAME=http://HOST:PORT, not {text!r}")
    return name, url.rstrip("/")


def main(argv: Sequence[str] | None = None) -> int:
    """Watch; 2 if the file cannot be written."""
    options = parser().parse_args(argv)
    gateway = options.gateway or (None if options.unit else "http://127.0.0.1:8200")
    watched = Watched(dict(options.unit), gateway and gateway.rstrip("/"), options.admin_token)
    try:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        with options.output.open("w", newline="") as output:
            count = asyncio.run(
                watch(watched, output, interval_s=options.interval, duration_s=options.duration)
            )
    except OSError as error:
        print(f"error: {options.output}: {error.strerror}", file=sys.stderr)
        return 2
    print(f"\n{count} rows in {options.output}; python -m analysis.monitor_plot draws them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
