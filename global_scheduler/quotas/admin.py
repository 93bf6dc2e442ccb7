"""The admin API of quotas."""

from __future__ import annotations

from typing import Any

import anyio
from fastapi import APIRouter
from pydantic import ConfigDict, Field, PositiveInt

from global_scheduler.errors import QuotasUnknown
from global_scheduler.quotas.base import StoreFailed
from global_scheduler.quotas.keys import ANONYMOUS, DEFAULT
from global_scheduler.quotas.limiter import Limiter
from global_scheduler.quotas.window import Quota, Usage
from wire.bounded_numbers import BoundedNumbers

READ_DEADLINE_S = 2.0


class QuotaIn(BoundedNumbers):
    """A key's new quota; without any limit the key has none of its own any more."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(
        pattern=f"^({DEFAULT}|{ANONYMOUS}|[0-9a-f]{{32}})$",
        description="as shown: the first 32 digits of the key's SHA-256; or default",
    )
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None


def quotas_router(limiter: Limiter) -> APIRouter:
    """The routes under ``/admin/quotas``."""
    router = APIRouter(prefix="/admin/quotas", tags=["admin"])

    @router.get("")
    async def show() -> dict[str, Any]:
        """Each key's quota and what it has used within the minute."""
        return await _shown(limiter)

    @router.put("")
    async def change(body: QuotaIn) -> dict[str, Any]:
        """Give a key another quota from now on."""
        quota = Quota(body.requests_per_minute, body.tokens_per_minute)
        has_limit = quota != Quota(None, None)
        if body.key == DEFAULT:
            limiter.quotas.default = quota if has_limit else None
        elif has_limit:
            limiter.quotas.by_key[body.key] = quota
        else:
            limiter.quotas.by_key.pop(body.key, None)
        return await _shown(limiter)

    return router


async def _shown(limiter: Limiter) -> dict[str, Any]:
    quotas = limiter.quotas
    try:
        with anyio.fail_after(READ_DEADLINE_S):
            usage = await limiter.store.usage()
    except (StoreFailed, TimeoutError) as error:
        raise QuotasUnknown(f"the store of quotas does not answer: {error}") from error
    nothing = Usage(0.0, ())
    return {
        "store": limiter.store.name,
        "default": None if quotas.default is None else _limits(quotas.default),
        "keys": [
            {"key": key, **_limits(quotas.of(key)), **_used(usage.get(key, nothing))}
            for key in sorted(usage.keys() | quotas.by_key.keys())
        ],
    }


def _limits(quota: Quota | None) -> dict[str, int | None]:
    quota = quota or Quota(None, None)
    return {
        "requests_per_minute": quota.requests_per_minute,
        "tokens_per_minute": quota.tokens_per_minute,
    }


def _used(usage: Usage) -> dict[str, int]:
    return {"num_requests": usage.num_requests, "num_tokens": usage.num_tokens}
