"""Holds requests to their keys' quotas.

A request is counted when it comes in, with the tokens that it is expected to use; when it is over,
however it ended, what it has used takes their place. Counts are exact in the store, so gateways
that share it admit no request too many together; tokens exceed a quota by as much as the answers
under way are longer than expected, which weighs on the requests that follow.

A store that fails must not fail requests: they go uncounted, unless told otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass

from global_scheduler.errors import QuotasUnknown, TooManyRequests
from global_scheduler.exchange import Caller
from global_scheduler.quotas.base import (
    Judgement,
    Reserve,
    Settle,
    Store,
    StoreFailed,
    StoreLate,
    WhenUnknown,
)
from global_scheduler.quotas.keys import Quotas, key_id
from global_scheduler.quotas.quota_metrics import QuotaMetrics
from global_scheduler.quotas.ratelimit_headers import ratelimit_headers
from global_scheduler.quotas.shared_calls import SharedCalls
from global_scheduler.quotas.window import Quota, fits, retry_after_s, slot_at
from global_scheduler.relay import Relayed

logger = logging.getLogger(__name__)

MOST_TOKENS = 10**12
"""That one request can count for, whatever its client asked or its engine claims: stores count in
64 bits, Redis' scripts exactly up to 1e14, and a slot holds many requests."""
PAUSE_S = 1.0
"""A store that has failed is left alone for so long, so that not every request waits for it."""


@dataclass(slots=True)
class Reservation:
    """What one request is taken to use, and has used; at its end the store is corrected."""

    num_prompt_tokens: int
    num_expected_tokens: int
    """Prompt included."""
    num_used_tokens: int = 0
    """Nothing, until a unit has the request."""

    def sent(self) -> None:
        """A unit has the request; what it uses is unknown unless more is told."""
        self.num_used_tokens = self.num_expected_tokens

    def streamed(self, num_output_tokens: int) -> None:
        """So many tokens have come back."""
        self.num_used_tokens = self.num_prompt_tokens + num_output_tokens

    def failed(self) -> None:
        """There is no answer."""
        self.num_used_tokens = 0

    def answered(self, relayed: Relayed) -> None:
        """The whole answer is there; errors cost nothing, without counts what was known stands."""
        counts = relayed.counts
        if relayed.status != 200:
            self.num_used_tokens = 0
        elif counts is not None:
            num_prompt_tokens = counts.num_prompt_tokens or self.num_prompt_tokens
            self.num_used_tokens = num_prompt_tokens + counts.num_output_tokens


class Limiter:
    """Quotas at work."""

    def __init__(
        self,
        quotas: Quotas,
        store: Store,
        metrics: QuotaMetrics,
        clock: Callable[[], float],
        *,
        deadline_s: float,
        when_unknown: WhenUnknown,
    ) -> None:
        self.quotas = quotas
        self.store = store
        self._metrics = metrics
        self._clock = clock
        self._calls = SharedCalls(store, deadline_s=deadline_s, on_failure=self._failed)
        self._when_unknown = when_unknown
        self._paused_until_s = float("-inf")

    async def close(self) -> None:
        """When the store has been told what requests have used."""
        await self._calls.close()
        await self.store.close()

    def reserved(
        self, caller: Caller, num_prompt_tokens: int, num_output_tokens: int
    ) -> AbstractAsyncContextManager[Reservation]:
        """Run the block with the request counted. Its answer gets ``x-ratelimit-*`` headers.

        Raises:
            TooManyRequests: the key's quota is used up.
            QuotasUnknown: the store does not answer, and requests wait for it to.
        """
        num_expected_tokens = _bounded(num_prompt_tokens + num_output_tokens)
        reservation = Reservation(num_prompt_tokens, num_expected_tokens)
        key = key_id(caller.header(b"authorization")) if self.quotas else ""
        quota = self.quotas.of(key)
        if quota is None:
            return nullcontext(reservation)
        return self._counted(caller, key, quota, reservation)

    @asynccontextmanager
    async def _counted(
        self, caller: Caller, key: str, quota: Quota, reservation: Reservation
    ) -> AsyncIterator[Reservation]:
        slot = await self._admit(caller, key, quota, reservation.num_expected_tokens)
        try:
            yield reservation
        finally:
            surplus = _bounded(reservation.num_used_tokens) - reservation.num_expected_tokens
            if slot is not None and surplus:
                self._calls.settle(Settle(key, slot, surplus))

    async def _admit(self, caller: Caller, key: str, quota: Quota, num_tokens: int) -> int | None:
        """The slot in which the request is counted; None if it is not."""
        judgement = await self._try_reserve(key, quota, num_tokens)
        if judgement is None:
            if self._when_unknown == "closed":
                raise QuotasUnknown("the store of quotas does not answer", code="quota_store")
            return None
        usage = judgement.usage
        caller.standing_headers += ratelimit_headers(quota, usage)
        if judgement.granted:
            return slot_at(usage.now_s)
        is_by_requests = not fits(quota, usage, 0)
        self._metrics.rejected("requests" if is_by_requests else "tokens")
        used, most, what = (
            (usage.num_requests, quota.requests_per_minute, "requests")
            if is_by_requests
            else (usage.num_tokens, quota.tokens_per_minute, f"tokens, and needs {num_tokens}")
        )
        raise TooManyRequests(
            f"the key has used {used} of its {most} {what} a minute",
            "quota",
            retry_after_s(quota, usage, num_tokens),
        )

    async def _try_reserve(self, key: str, quota: Quota, num_tokens: int) -> Judgement | None:
        if self._clock() < self._paused_until_s:
            self._metrics.uncounted("paused")
            return None
        try:
            return await self._calls.reserve(Reserve(key, quota, num_tokens))
        except StoreFailed as error:
            self._metrics.uncounted("late" if isinstance(error, StoreLate) else "failed")
        return None

    def _failed(self, error: StoreFailed) -> None:
        self._paused_until_s = self._clock() + PAUSE_S
        logger.warning("the %s store of quotas fails: %s", self.store.name, error)


def _bounded(num_tokens: int) -> int:
    return max(0, min(num_tokens, MOST_TOKENS))
