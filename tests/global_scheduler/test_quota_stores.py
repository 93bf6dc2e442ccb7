"""Stores of quotas: SQLite, shared by processes, and a real Redis server."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from global_scheduler.quotas.base import Judgement, Reserve, Settle, Store, StoreFailed
from global_scheduler.quotas.redis_store import RedisStore
from global_scheduler.quotas.shared_calls import SharedCalls
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.quotas.window import LONGEST_S, Quota, Slot
from tests.global_scheduler.redis_server import redis_server

pytestmark = pytest.mark.anyio

QUOTA = Quota(requests_per_minute=3, tokens_per_minute=1000)


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1_000_000_000.0

    def __call__(self) -> float:
        """UNIX seconds."""
        return self.now_s


async def reserve(store: Store, key: str, quota: Quota, num_tokens: int) -> Judgement:
    """One request."""
    (judgement,) = await store.reserve([Reserve(key, quota, num_tokens)])
    return judgement


@asynccontextmanager
async def stores(kind: str, folder: Path, count: int = 2) -> AsyncIterator[list[Store]]:
    """Several gateways' views of one store."""
    clock = Clock()

    def sqlite() -> Store:
        return SqliteStore(folder / "new" / "quotas.sqlite", clock, 5.0)

    @asynccontextmanager
    async def opened(make: Callable[[], Store]) -> AsyncIterator[list[Store]]:
        views = [make() for _ in range(count)]
        yield views
        for view in views:
            await view.close()

    if kind == "sqlite":
        async with opened(sqlite) as views:
            yield views
    else:
        with redis_server(folder) as (url, _):
            async with opened(lambda: RedisStore(url)) as views:
                yield views


@pytest.fixture(params=["sqlite", "redis"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[Store]]:
    """Two views of a store of each kind."""
    async with stores(request.param, tmp_path) as views:
        yield views


async def test_gateways_share_a_keys_quota(two: list[Store]) -> None:
    """What one has counted the other sees; other keys have their own."""
    one, other = two
    assert (await reserve(one, "a", QUOTA, 100)).granted
    judgement = await reserve(other, "a", QUOTA, 200)
    assert judgement.granted
    assert (judgement.usage.num_requests, judgement.usage.num_tokens) == (2, 300)
    assert not (await reserve(one, "a", QUOTA, 701)).granted
    assert (await reserve(one, "a", QUOTA, 700)).granted
    refused = await reserve(other, "a", QUOTA, 0)
    assert not refused.granted
    assert (refused.usage.num_requests, refused.usage.num_tokens) == (3, 1000)
    assert (await reserve(other, "b", QUOTA, 1000)).granted
    assert (await reserve(other, "a", Quota(None, None), 10**9)).granted


async def test_many_at_once_never_exceed_a_quota(two: list[Store]) -> None:
    """Reading and counting are one step."""
    failures: list[StoreFailed] = []
    gateways = [SharedCalls(view, deadline_s=10.0, on_failure=failures.append) for view in two]
    requests = [gateways[i % 2].reserve(Reserve("a", Quota(25, None), 1)) for i in range(1200)]
    judgements = await asyncio.gather(*requests)
    assert sum(judgement.granted for judgement in judgements) == 25
    assert failures == []
    assert (await two[0].usage())["a"].num_requests == 25


async def test_a_settled_request_counts_what_it_has_used(two: list[Store]) -> None:
    """More or less than was reserved; a correction never leaves less than nothing."""
    one, other = two
    judgement = await reserve(one, "a", QUOTA, 500)
    (slot,) = judgement.usage.slots
    await other.settle([Settle("a", slot.index, 250)])
    assert (await one.usage())["a"].num_tokens == 750
    await one.settle([Settle("a", slot.index, -2000)])
    assert (await other.usage())["a"].slots == (Slot(slot.index, 1, 0),)
    await one.settle([Settle("a", slot.index - 20, 500)])
    await one.settle([Settle("nobody", slot.index, 500)])
    assert {key: usage.num_tokens for key, usage in (await one.usage()).items()} == {"a": 0}


_WORKER = """
import asyncio, sys, time
from pathlib import Path
from global_scheduler.quotas.base import Reserve
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.quotas.window import Quota

async def main():
    store = SqliteStore(Path(sys.argv[1]), lambda: 1e9, 30.0)
    print("ready", flush=True)
    sys.stdin.readline()
    calls = [store.reserve([Reserve("a", Quota(100, None), 1)] * 2) for _ in range(40)]
    answers = await asyncio.gather(*calls)
    print(sum(answer.granted for pair in answers for answer in pair))
    await store.close()

asyncio.run(main())
"""


@contextmanager
def workers_that_are_ready(
    num_workers: int, script: str, *arguments: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that have said so; none is left running."""
    command = [sys.executable, "-c", script, *arguments]
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        workers = [
            stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
            for _ in range(num_workers)
        ]
        for worker in workers:
            stack.callback(worker.kill)
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        yield workers


def test_processes_that_share_a_file_never_exceed_a_quota(tmp_path: Path) -> None:
    """Two gateways that count as fast as they can, at the same time."""
    with workers_that_are_ready(2, _WORKER, str(tmp_path / "quotas.sqlite")) as workers:
        granted = [int(worker.communicate("go\n", timeout=240)[0]) for worker in workers]
    assert sum(granted) == 100


_OPENER = """
import sys, time
from pathlib import Path
from global_scheduler.quotas.sqlite_store import SqliteStore

print("ready", flush=True)
for folder in sys.argv[1:]:
    while not Path(folder).exists():
        time.sleep(0.001)
    SqliteStore(Path(folder) / "quotas.sqlite", time.time, 30.0)
print("opened")
"""


def test_gateways_that_start_together_can_all_open_the_file(tmp_path: Path) -> None:
    """Whoever comes first makes the file while the others open it."""
    folders = [tmp_path / str(index) for index in range(40)]
    with workers_that_are_ready(4, _OPENER, *map(str, folders)) as workers:
        for folder in folders:
            folder.mkdir()
            time.sleep(0.02)
        assert [worker.communicate(timeout=240)[0] for worker in workers] == ["opened\n"] * 4


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 400)), max_size=40))
async def test_no_minute_has_more_than_the_quota(arrivals: list[tuple[float, int]]) -> None:
    """At whatever moment the minute begins; and after 65 idle seconds all may be used again."""
    clock = Clock()
    store = SqliteStore(None, clock, 1.0)
    within: deque[tuple[float, int]] = deque()
    for gap_s, num_tokens in arrivals:
        clock.now_s += gap_s
        if (await reserve(store, "a", QUOTA, num_tokens)).granted:
            within.append((clock.now_s, num_tokens))
        while within and within[0][0] <= clock.now_s - 60:
            within.popleft()
        assert len(within) <= 3
        assert sum(tokens for _, tokens in within) <= 1000
    clock.now_s += LONGEST_S
    assert (await reserve(store, "a", QUOTA, 1000)).granted
    await store.close()


async def test_the_window_rolls_over() -> None:
    """A use counts for a minute and at most five seconds more; then its row is dropped."""
    clock = Clock()
    store = SqliteStore(None, clock, 1.0)
    one_a_minute = Quota(1, None)
    assert (await reserve(store, "a", one_a_minute, 7)).granted
    for seconds_later, is_granted in ((59.9, False), (64.9, False), (65.0, True)):
        clock.now_s = 1_000_000_000.0 + seconds_later
        assert (await reserve(store, "a", one_a_minute, 7)).granted == is_granted
    assert [slot.num_tokens for slot in (await store.usage())["a"].slots] == [7]
    await store.close()


async def test_a_clock_set_back_does_not_lock_keys_out() -> None:
    """Uses in the future do not count, and go."""
    clock = Clock()
    store = SqliteStore(None, clock, 1.0)
    assert (await reserve(store, "a", Quota(1, None), 0)).granted
    clock.now_s -= 3600
    assert (await reserve(store, "a", Quota(1, None), 0)).granted
    assert not (await reserve(store, "a", Quota(1, None), 0)).granted
    await store.close()


async def test_a_locked_file_fails_and_leaves_the_event_loop_alone(tmp_path: Path) -> None:
    """Another process may hold it; this one goes on once it is free."""
    path = tmp_path / "quotas.sqlite"
    store = SqliteStore(path, Clock(), 0.3)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    longest_s, last_s = 0.0, anyio.current_time()
    call = asyncio.ensure_future(reserve(store, "a", QUOTA, 1))
    while not call.done():
        await anyio.sleep(0.005)
        longest_s, last_s = max(longest_s, anyio.current_time() - last_s), anyio.current_time()
    with pytest.raises(StoreFailed, match="locked"):
        call.result()
    assert longest_s < 0.25
    holder.execute("ROLLBACK")
    assert (await reserve(store, "a", QUOTA, 1)).granted
    holder.close()
    await store.close()


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """When the gateway starts, with its name."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(StoreFailed, match=r"notes\.txt.*not a database"):
        SqliteStore(path, Clock(), 1.0)


async def test_a_redis_that_is_away_fails(tmp_path: Path) -> None:
    """At once if nobody listens, and again when a server has died."""
    with redis_server(tmp_path) as (url, server):
        store = RedisStore(url)
        assert (await reserve(store, "a", QUOTA, 1)).granted
        server.kill()
        server.wait()
        with pytest.raises(StoreFailed):
            await reserve(store, "a", QUOTA, 1)
        with pytest.raises(StoreFailed):
            await store.usage()
        await store.close()
    with pytest.raises(StoreFailed, match="scheme"):
        RedisStore("postgres://nowhere")


async def test_redis_forgets_keys_that_are_not_used(tmp_path: Path) -> None:
    """No key stays for ever."""
    with redis_server(tmp_path) as (url, _):
        store = RedisStore(url)
        await reserve(store, "a", QUOTA, 1)
        remaining_s = await store._redis.ttl("astrolabe:quota:a")
        assert LONGEST_S < remaining_s <= 2 * LONGEST_S
        await store.close()
