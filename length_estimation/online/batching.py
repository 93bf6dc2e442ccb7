"""Micro-batches: questions that arrive while a batch runs share a later one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

from length_estimation.online.errors import InferenceFailed, NotEstimated, Overloaded

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Batcher(Generic[Question, Answer]):
    """Runs batches one after the other, on a thread of its own.

    A question that comes while nothing runs starts at once: to wait for company would cost more
    than company gains. Of those that wait, the newest go first: under overload they are the ones
    that can still be answered in time, and the oldest are the first to be turned away.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[Question]], Sequence[Answer | NotEstimated]],
        *,
        max_batch: int,
        max_waiting: int,
    ) -> None:
        """``answer`` gives a result for each question; whatever it raises fails all of them."""
        self._answer = answer
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Question, asyncio.Future[Answer | NotEstimated]]] = deque()
        self._arrived = asyncio.Event()
        self._is_closed = False
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lengths")
        self._serving: asyncio.Task[None] | None = None
        self.num_batches = 0
        self.num_batched_questions = 0

    def start(self) -> None:
        """Serve until ``close``."""
        self._serving = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Let the running batch end; questions that wait or come later are turned away."""
        self._is_closed = True
        while self._waiting:
            self._turn_oldest_away()
        self._arrived.set()
        if self._serving is not None:
            await self._serving
        self._worker.shutdown()

    def submit(self, question: Question) -> asyncio.Future[Answer | NotEstimated]:
        """What will be its result. Errors are results too: perhaps nobody waits for them."""
        future: asyncio.Future[Answer | NotEstimated] = asyncio.get_running_loop().create_future()
        self._waiting.append((question, future))
        if self._is_closed or len(self._waiting) > self._max_waiting:
            self._turn_oldest_away()
        self._arrived.set()
        return future

    def _turn_oldest_away(self) -> None:
        _, future = self._waiting.popleft()
        future.set_result(Overloaded(f"more than {self._max_waiting} questions wait"))

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_closed:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                size = min(self._max_batch, len(self._waiting))
                batch = [self._waiting.pop() for _ in range(size)]
                self.num_batches += 1
                self.num_batched_questions += size
                questions = [question for question, _ in batch]
                results = await loop.run_in_executor(self._worker, self._answer_all, questions)
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)

    def _answer_all(self, questions: Sequence[Question]) -> Sequence[Answer | NotEstimated]:
        """On the thread. Nothing that fails here may end the serving."""
        try:
            return self._answer(questions)
        except NotEstimated as error:
            return [error] * len(questions)
        except Exception as error:
            failed = InferenceFailed(f"inference ended with {type(error).__name__}")
            failed.__cause__ = error
            return [failed] * len(questions)
