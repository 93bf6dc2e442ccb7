"""Questions that share a batch, wait their turn, or are turned away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from length_estimation.online.batching import Batcher
from length_estimation.online.errors import InferenceFailed, NotEstimated, Overloaded
from length_estimation.online.session import of_like_length

pytestmark = pytest.mark.anyio


class Gate:
    """Doubles numbers, batch after batch, each when it is let."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.thread_names: set[str] = set()
        self.now_s = 0.0
        self.started = threading.Semaphore(0)
        self._may_end = threading.Semaphore(0)

    def __call__(self, numbers: Sequence[int]) -> list[int | NotEstimated]:
        self.batches.append(list(numbers))
        self.thread_names.add(threading.current_thread().name)
        self.now_s += len(numbers)
        self.started.release()
        assert self._may_end.acquire(timeout=60)
        if -1 in numbers:
            raise OSError("minus one")
        return [2 * number if number else InferenceFailed("zero") for number in numbers]

    def timer(self) -> float:
        """A second for each number."""
        return self.now_s

    def let(self, num_batches: int) -> None:
        """So many more batches may end."""
        self._may_end.release(num_batches)

    async def wait_started(self) -> None:
        """Until one more batch has started."""
        assert await asyncio.to_thread(self.started.acquire, timeout=60)


@asynccontextmanager
async def running(
    gate: Gate, *, max_waiting: int = 8, batch_s: float = 100.0
) -> AsyncIterator[Batcher[int, int]]:
    """A batcher that serves, and has seen a batch."""
    batcher = Batcher[int, int](
        gate, max_batch=4, max_waiting=max_waiting, batch_s=batch_s, timer=gate.timer
    )
    batcher.start()
    gate.let(1)
    assert await batcher.submit(100) == 200
    await gate.wait_started()
    gate.batches.clear()
    try:
        yield batcher
    finally:
        gate.let(100)
        await batcher.close()


async def test_questions_that_come_while_a_batch_runs_share_the_next() -> None:
    """The first runs alone at once; all others wait for one run, newest first."""
    gate = Gate()
    async with running(gate) as batcher:
        first = batcher.submit(1)
        await gate.wait_started()
        others = [batcher.submit(number) for number in (2, 3, 4)]
        gate.let(2)
        assert [await first, *(await asyncio.gather(*others))] == [2, 4, 6, 8]
        assert gate.batches == [[1], [4, 3, 2]]
        assert (batcher.num_batches, batcher.num_batched_questions) == (1 + 2, 1 + 4)
        assert len(gate.thread_names) == 1
        assert threading.current_thread().name not in gate.thread_names


async def test_questions_of_one_moment_share_a_batch() -> None:
    """Nothing has to run already."""
    gate = Gate()
    async with running(gate) as batcher:
        futures = [batcher.submit(number) for number in (1, 2, 3)]
        gate.let(1)
        assert await asyncio.gather(*futures) == [2, 4, 6]
        assert len(gate.batches) == 1


async def test_batches_are_bounded() -> None:
    """What does not fit waits for the batch after the next."""
    gate = Gate()
    async with running(gate) as batcher:
        gate.let(2)
        futures = [batcher.submit(number) for number in range(1, 8)]
        assert await asyncio.gather(*futures) == [2, 4, 6, 8, 10, 12, 14]
        assert [len(batch) for batch in gate.batches] == [4, 3]


async def test_a_batch_has_as_many_as_there_is_time_for() -> None:
    """A question takes a second: two fit into two and a half."""
    gate = Gate()
    async with running(gate, batch_s=2.5) as batcher:
        gate.let(3)
        futures = [batcher.submit(number) for number in range(1, 6)]
        assert await asyncio.gather(*futures) == [2, 4, 6, 8, 10]
        assert [len(batch) for batch in gate.batches] == [2, 2, 1]


async def test_a_batch_has_one_at_least() -> None:
    """However short the time."""
    gate = Gate()
    async with running(gate, batch_s=0.1) as batcher:
        gate.let(2)
        futures = [batcher.submit(1), batcher.submit(2)]
        assert await asyncio.gather(*futures) == [2, 4]
        assert gate.batches == [[2], [1]]


async def test_the_oldest_are_turned_away_when_too_many_wait() -> None:
    """At once, while the batch before them still runs."""
    gate = Gate()
    async with running(gate, max_waiting=2) as batcher:
        first = batcher.submit(1)
        await gate.wait_started()
        second, third, fourth = (batcher.submit(number) for number in (2, 3, 4))
        assert isinstance(await second, Overloaded)
        assert not first.done()
        gate.let(2)
        assert [await first, await third, await fourth] == [2, 6, 8]


async def test_one_bad_answer_harms_no_other() -> None:
    """Of one batch, one fails."""
    gate = Gate()
    async with running(gate) as batcher:
        gate.let(1)
        bad, good = batcher.submit(0), batcher.submit(5)
        assert isinstance(await bad, InferenceFailed)
        assert await good == 10


async def test_a_batch_that_fails_fails_its_questions_and_no_later_ones() -> None:
    """The cause is kept for the log."""
    gate = Gate()
    async with running(gate) as batcher:
        gate.let(2)
        failed = await asyncio.gather(batcher.submit(-1), batcher.submit(1))
        for result in failed:
            assert isinstance(result, InferenceFailed)
            assert isinstance(result.__cause__, OSError)
        assert await batcher.submit(3) == 6


async def test_closing_lets_the_running_batch_end_and_turns_away_the_rest() -> None:
    """Nobody is left waiting."""
    gate = Gate()
    async with running(gate) as batcher:
        first = batcher.submit(1)
        await gate.wait_started()
        second = batcher.submit(2)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(batcher.close)
            assert isinstance(await second, Overloaded)
            gate.let(1)
            assert await first == 2
        assert isinstance(await batcher.submit(3), Overloaded)


async def test_questions_share_a_run_only_if_they_are_about_as_long() -> None:
    """Padding 10 tokens to 200 would cost twenty times as much."""
    assert of_like_length([10, 200, 9, 160, 151, 8, 2]) == [[1, 3, 4], [0, 2, 5], [6]]
    assert [len(group) for group in of_like_length([50] * 20)] == [8, 8, 4]
    assert of_like_length([]) == []
