"""One call to the store at a time: what comes meanwhile shares the next one.

So a burst costs a few calls instead of hundreds, and no request waits behind a queue of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from global_scheduler.quotas.base import (
    Judgement,
    Reserve,
    Settle,
    Store,
    StoreFailed,
    StoreLate,
)

_Result = TypeVar("_Result")
_Waiting = tuple[Reserve, "asyncio.Future[Judgement]"]

logger = logging.getLogger(__name__)

MOST_IN_A_CALL = 500
SLICES = 5
"""A deadline is waited for in so many parts: when the event loop itself was busy for longer, it has
several turns yet to find the answer that has been there in time."""


class SharedCalls:
    """Takes requests and corrections to the store."""

    def __init__(
        self, store: Store, *, deadline_s: float, on_failure: Callable[[StoreFailed], None]
    ) -> None:
        """``on_failure`` is told of each call that failed."""
        self._store = store
        self._deadline_s = deadline_s
        self._on_failure = on_failure
        self._requests: list[_Waiting] = []
        self._corrections: list[Settle] = []
        self._caller: asyncio.Task[None] | None = None

    async def reserve(self, request: Reserve) -> Judgement:
        """The store's judgement, after two deadlines at most.

        Raises:
            StoreFailed: there is none.
            Exception: this request is one that the store cannot take, which is a bug; requests
                that shared its call are counted all the same.
        """
        future: asyncio.Future[Judgement] = asyncio.get_running_loop().create_future()
        self._requests.append((request, future))
        self._call()
        return await future

    def settle(self, correction: Settle) -> None:
        """Correct the store in one of the next calls; if that fails, what was reserved stands."""
        self._corrections.append(correction)
        self._call()

    async def close(self) -> None:
        """When what is there has been told."""
        if self._caller is not None:
            await self._caller

    def _call(self) -> None:
        if self._caller is None or self._caller.done():
            self._caller = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while self._requests or self._corrections:
            corrections = self._corrections[:MOST_IN_A_CALL]
            del self._corrections[:MOST_IN_A_CALL]
            taken = self._requests[:MOST_IN_A_CALL]
            del self._requests[:MOST_IN_A_CALL]
            try:
                await self._tell(corrections)
                await self._ask(taken)
            except StoreFailed as error:
                self._fail(error, taken)
            except BaseException as error:  # whatever it is, nobody may wait for ever
                self._fail(StoreFailed(repr(error)), taken)
                raise

    async def _tell(self, corrections: list[Settle]) -> None:
        """Raises only ``StoreFailed``: a correction that is a bug is dropped, and no other."""
        if not corrections:
            return
        try:
            await self._in_time(self._store.settle(corrections))
        except StoreFailed:
            raise
        except Exception:
            if len(corrections) == 1:
                logger.exception("tokens of key %s are not corrected", corrections[0].key)
                return
            for correction in corrections:
                await self._tell([correction])

    async def _ask(self, taken: list[_Waiting]) -> None:
        """Raises only ``StoreFailed``: a bug is the answer to the request that met it."""
        if not taken:
            return
        try:
            requests = [request for request, _ in taken]
            judgements = await self._in_time(self._store.reserve(requests))
        except StoreFailed:
            raise
        except Exception as error:
            if len(taken) == 1:
                ((_, future),) = taken
                if not future.done():
                    future.set_exception(error)
                return
            for waiting in taken:
                await self._ask([waiting])
            return
        for (_, future), judgement in zip(taken, judgements, strict=True):
            if not future.done():  # its client has left
                future.set_result(judgement)

    async def _in_time(self, call: Awaitable[_Result]) -> _Result:
        answer = asyncio.ensure_future(call)
        try:
            for _ in range(SLICES):
                await asyncio.wait({answer}, timeout=self._deadline_s / SLICES)
                if answer.done():
                    return answer.result()
        finally:
            answer.cancel()
        raise StoreLate(f"no answer within {self._deadline_s:g} s")

    def _fail(self, error: StoreFailed, taken: list[_Waiting]) -> None:
        """Who has waited for this call has waited long enough for the next one, too."""
        taken += self._requests
        self._requests.clear()
        self._on_failure(error)
        for _, future in taken:
            if not future.done():
                future.set_exception(error)
