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

SMOOTHING = 0.2
"""Weight of the newest batch in what a question is known to take."""
LEAST_QUESTION_S = 1e-6


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
        batch_s: float,
        timer: Callable[[], float],
    ) -> None:
        """``answer`` gives a result for each question; whatever it raises fails all of them.
        ``timer`` gives monotonic seconds."""
        self._answer = answer
        self._max_batch = max_batch
        self._batch_s = batch_s
        self._timer = timer
        self._question_s = batch_s  # until it is known, so that the first batch has one
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
        while not self._is_closed:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._run_batch()

    async def _run_batch(self) -> None:
        most = max(int(self._batch_s / self._question_s), 1)
        size = min(len(self._waiting), self._max_batch, most)
        batch = [self._waiting.pop() for _ in range(size)]
        self.num_batches += 1
        self.num_batched_questions += size
        started_s = self._timer()
        results = await asyncio.get_running_loop().run_in_executor(
            self._worker, self._answer_all, [question for question, _ in batch]
        )
        took_s = max((self._timer() - started_s) / size, LEAST_QUESTION_S)
        weight = max(SMOOTHING, 1 / self.num_batches)
        self._question_s += weight * (took_s - self._question_s)
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
