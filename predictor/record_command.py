"""``python -m predictor record``: snapshots of a live engine, as JSON that ``whatif`` reads."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from predictor.errors import ConfigurationError, StateUnavailable
from predictor.state.plugin import PluginStateSource, engines_here
from wire.snapshot import EngineSnapshot

LOCAL_PAUSE_S = 0.002
"""Between two looks into shared memory: shorter than the steps of most engines."""
REMOTE_PAUSE_S = 0.02
DEFAULT_LIMIT_S = 60.0
"""An idle engine writes no further snapshots."""

DESCRIPTION = """Record snapshots of a live engine. Without --count and --seconds it is the latest
one, as a readable JSON object; with either it is every snapshot that differs from the one before,
a line each."""


def main(arguments: list[str]) -> int:
    """Write what was recorded; 1 when the engine cannot be read, 2 for a bad command line."""
    options = _parser().parse_args(arguments)
    try:
        return asyncio.run(_record(options))
    except (ConfigurationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StateUnavailable as error:
        print(f"error: {error}{engines_here(options.snapshot)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


async def snapshots(address: str, count: int, seconds: float) -> AsyncIterator[EngineSnapshot]:
    """Up to ``count`` snapshots, each different from the last, for that long at most.

    Raises:
        ConfigurationError: the address has another form than ``PluginStateSource`` takes.
        StateUnavailable: the engine cannot be read.
    """
    source = PluginStateSource(address)
    pause_s = LOCAL_PAUSE_S if address.startswith("shm:") else REMOTE_PAUSE_S
    last: EngineSnapshot | None = None
    deadline_s = time.monotonic() + seconds
    try:
        while count > 0:
            snapshot = await source.read()
            if snapshot is not last:
                last = snapshot
                count -= 1
                yield snapshot
            if time.monotonic() >= deadline_s:
                return
            await asyncio.sleep(pause_s)
    finally:
        await source.close()


async def _record(options: argparse.Namespace) -> int:
    is_single = options.count is None and options.seconds is None
    count = 1 if is_single else options.count or sys.maxsize
    recorded = snapshots(options.snapshot, count, options.seconds or DEFAULT_LIMIT_S)
    first = await anext(recorded)  # before the file is touched: there may be nothing to write
    with _opened(options.out) as out:
        text = msgspec.json.encode(first)
        out.write((msgspec.json.format(text, indent=2) if is_single else text) + b"\n")
        num_written = 1
        async for snapshot in recorded:
            out.write(msgspec.json.encode(snapshot) + b"\n")
            num_written += 1
    if options.count is not None and num_written < options.count:
        print(f"note: {num_written} of {options.count} snapshots in the time", file=sys.stderr)
    return 0


def _opened(path: str) -> BinaryIO:
    """The file, or standard output, which stays open."""
    if path == "-":
        return open(sys.stdout.fileno(), "wb", closefd=False)
    return Path(path).open("wb")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m predictor record", description=DESCRIPTION, allow_abbrev=False
    )
    parser.add_argument(
        "--snapshot",
        required=True,
        metavar="ADDRESS",
        help="where the engine publishes: shm:ENGINE_ID (such as shm:unit-1; bash exp/setup.sh "
        "--status lists them), http://host:port/snapshot or unix:/path",
    )
    parser.add_argument("--count", type=_positive_int, help="how many snapshots")
    parser.add_argument(
        "--seconds",
        type=_positive,
        help=f"for how long at most ({DEFAULT_LIMIT_S:.0f} with --count alone)",
    )
    parser.add_argument("--out", default="-", metavar="FILE", help="default: standard output")
    return parser


def _positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 (got {text!r})")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0 (got {text!r})")
    return value
