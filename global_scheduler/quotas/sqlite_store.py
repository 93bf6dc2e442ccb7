"""Uses in a SQLite file, for the gateways of one host; or in memory, for one gateway.

All statements run in a thread of their own: another gateway may hold the file's lock, and disks may
be slow. The clock is the host's, the same for all who share the file.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from global_scheduler.quotas.base import Judgement, Reserve, Settle, StoreFailed
from global_scheduler.quotas.window import NUM_SLOTS, Slot, Usage, fits, slot_at

_Result = TypeVar("_Result")

_LOCK_POLL_S = 0.01
_BUGS = (
    sqlite3.DataError,
    sqlite3.IntegrityError,
    sqlite3.NotSupportedError,
    sqlite3.ProgrammingError,
)
"""Of those who call SQLite; its other errors tell of the file and its disk."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS uses (
    key TEXT NOT NULL, slot INTEGER NOT NULL,
    num_requests INTEGER NOT NULL, num_tokens INTEGER NOT NULL,
    PRIMARY KEY (key, slot)
) WITHOUT ROWID"""
_READ = """
SELECT slot, num_requests, num_tokens FROM uses
WHERE key = ? AND slot > ? AND slot <= ? ORDER BY slot"""
_READ_ALL = """
SELECT key, slot, num_requests, num_tokens FROM uses
WHERE slot > ? AND slot <= ? ORDER BY key, slot"""
_COUNT = """
INSERT INTO uses VALUES (?, ?, 1, ?) ON CONFLICT (key, slot) DO UPDATE
SET num_requests = num_requests + 1, num_tokens = num_tokens + excluded.num_tokens"""
_SETTLE = "UPDATE uses SET num_tokens = MAX(0, num_tokens + ?) WHERE key = ? AND slot = ?"
_PRUNE = "DELETE FROM uses WHERE slot <= ? OR slot > ?"


def _write_ahead(connection: sqlite3.Connection, busy_s: float) -> None:
    """Let readers and a writer pass each other. SQLite itself does not wait for the lock here."""
    give_up_s = time.monotonic() + busy_s
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= give_up_s:
                raise
        time.sleep(_LOCK_POLL_S)


class SqliteStore:
    """See ``Store``."""

    name = "sqlite"

    def __init__(self, path: Path | None, wall_clock: Callable[[], float], busy_s: float) -> None:
        """None keeps uses in memory. ``busy_s`` is how long another's lock is waited for.

        Raises:
            StoreFailed: the file cannot be used.
        """
        self._wall_clock = wall_clock
        self._pruned_slot = 0
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                ":memory:" if path is None else path,
                timeout=busy_s,
                isolation_level=None,  # transactions are begun by hand
                check_same_thread=False,  # opened here, used in the thread below
            )
            _write_ahead(self._connection, busy_s)
            self._connection.execute("PRAGMA synchronous = OFF")  # a crash may forget a minute
            self._connection.execute(_SCHEMA)
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(f"{path}: {error}") from error
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="quotas")

    async def reserve(self, requests: Sequence[Reserve]) -> list[Judgement]:
        """See ``Store``."""
        return await self._run(partial(self._reserve, requests))

    async def settle(self, corrections: Sequence[Settle]) -> None:
        """See ``Store``."""
        await self._run(partial(self._settle, corrections))

    async def usage(self) -> dict[str, Usage]:
        """See ``Store``."""
        return await self._run(self._read_all)

    async def close(self) -> None:
        """See ``Store``."""
        await self._run(self._connection.close)
        self._thread.shutdown(wait=False)

    async def _run(self, work: Callable[[], _Result]) -> _Result:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except _BUGS:
            raise
        except sqlite3.DatabaseError as error:
            raise StoreFailed(str(error)) from error

    def _reserve(self, requests: Sequence[Reserve]) -> list[Judgement]:
        with self._transaction():
            now_s = self._wall_clock()
            self._prune(slot_at(now_s))
            return [self._judge(request, now_s) for request in requests]

    def _judge(self, request: Reserve, now_s: float) -> Judgement:
        key, num_tokens = request.key, request.num_tokens
        granted = fits(request.quota, self._read(key, now_s), num_tokens)
        if granted:
            self._connection.execute(_COUNT, (key, slot_at(now_s), num_tokens))
        return Judgement(granted, self._read(key, now_s))

    def _read(self, key: str, now_s: float) -> Usage:
        present = slot_at(now_s)
        rows = self._connection.execute(_READ, (key, present - NUM_SLOTS, present))
        return Usage(now_s, tuple([Slot(*row) for row in rows]))

    def _settle(self, corrections: Sequence[Settle]) -> None:
        with self._transaction():
            self._connection.executemany(
                _SETTLE, [(c.num_more_tokens, c.key, c.slot) for c in corrections]
            )

    def _read_all(self) -> dict[str, Usage]:
        now_s = self._wall_clock()
        present = slot_at(now_s)
        rows = self._connection.execute(_READ_ALL, (present - NUM_SLOTS, present))
        return {
            key: Usage(now_s, tuple([Slot(*row[1:]) for row in group]))
            for key, group in groupby(rows, itemgetter(0))
        }

    def _prune(self, present: int) -> None:
        """Drop what is over, and what a clock that was set back had put into the future."""
        if present != self._pruned_slot:
            self._connection.execute(_PRUNE, (present - NUM_SLOTS, present + 1))
            self._pruned_slot = present

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Reads and writes as one, against other processes too."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")
