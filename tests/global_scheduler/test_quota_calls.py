"""Requests share calls to the store of quotas, and give up on one that hangs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest

from global_scheduler.quotas.base import (
    Judgement,
    Reserve,
    Settle,
    StoreFailed,
    StoreLate,
)
from global_scheduler.quotas.shared_calls import SharedCalls
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.quotas.window import Quota

pytestmark = pytest.mark.anyio

REQUEST = Reserve("a", Quota(None, None), 5)


class CountingStore(SqliteStore):
    """In memory; notes the size of each call, and hangs when it is told to."""

    def __init__(self) -> None:
        super().__init__(None, lambda: 1e9, 1.0)
        self.sizes: list[int] = []
        self.hangs = False

    async def reserve(self, requests: Sequence[Reserve]) -> list[Judgement]:
        """As the real one."""
        self.sizes.append(len(requests))
        if self.hangs:
            await anyio.sleep_forever()
        return await super().reserve(requests)


def calls_to(store: CountingStore, deadline_s: float) -> tuple[SharedCalls, list[StoreFailed]]:
    """And the failures that they meet."""
    failures: list[StoreFailed] = []
    return SharedCalls(store, deadline_s=deadline_s, on_failure=failures.append), failures


async def test_what_comes_during_a_call_shares_the_next() -> None:
    """A burst of a hundred is two calls at most."""
    store = CountingStore()
    calls, failures = calls_to(store, 5.0)
    judgements = await asyncio.gather(*[calls.reserve(REQUEST) for _ in range(100)])
    assert sorted(j.usage.num_requests for j in judgements) == list(range(1, 101))
    assert sum(store.sizes) == 100
    assert len(store.sizes) <= 2
    assert failures == []
    await store.close()


async def test_corrections_are_told_before_the_end() -> None:
    """Closing waits for them."""
    store = CountingStore()
    calls, _ = calls_to(store, 5.0)
    (slot,) = (await calls.reserve(REQUEST)).usage.slots
    for _ in range(3):
        calls.settle(Settle("a", slot.index, 10))
    await calls.close()
    assert (await store.usage())["a"].num_tokens == 35
    await store.close()


async def test_a_store_that_hangs_is_given_up() -> None:
    """Also by those who came while it was waited for; the next request tries again."""
    store = CountingStore()
    calls, failures = calls_to(store, 0.2)
    store.hangs = True
    began_s = anyio.current_time()
    first = asyncio.ensure_future(calls.reserve(REQUEST))
    await anyio.sleep(0.05)
    late = asyncio.ensure_future(calls.reserve(REQUEST))
    for waiting in (first, late):
        with pytest.raises(StoreLate, match=r"0\.2 s"):
            await waiting
    assert anyio.current_time() - began_s > 0.19
    assert len(failures) == 1
    store.hangs = False
    assert (await calls.reserve(REQUEST)).granted
    await store.close()


async def test_a_busy_event_loop_is_no_slow_store() -> None:
    """The answer was there long before this process looked at it."""
    store = CountingStore()
    calls, failures = calls_to(store, 0.2)
    waiting = asyncio.ensure_future(calls.reserve(REQUEST))
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    time.sleep(0.5)  # noqa: ASYNC251  # what a burst of requests does
    assert (await waiting).granted
    assert failures == []
    await store.close()


async def test_a_client_that_leaves_does_not_disturb_others() -> None:
    """Its request may be counted; those beside it are."""
    store = CountingStore()
    calls, failures = calls_to(store, 5.0)
    requests = [asyncio.ensure_future(calls.reserve(REQUEST)) for _ in range(3)]
    await anyio.lowlevel.checkpoint()
    requests[1].cancel()
    found = await asyncio.gather(*requests, return_exceptions=True)
    assert [isinstance(one, Judgement) for one in found] == [True, False, True]
    assert failures == []
    await store.close()
