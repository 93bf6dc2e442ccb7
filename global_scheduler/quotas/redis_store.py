"""Uses in Redis, for gateways on several hosts. Needs the package ``redis``.

Each key is a hash of counters by slot; scripts read and write it in one step. The clock is that of
the Redis server, so that the hosts' need not agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from global_scheduler.quotas.base import Judgement, Reserve, Settle, StoreFailed
from global_scheduler.quotas.window import LONGEST_S, NUM_SLOTS, SLOT_S, Quota, Slot, Usage

PREFIX = "astrolabe:quota:"
KEYS_A_PAGE = 500
TIMEOUT_S = 5.0
"""Of a socket; callers give up earlier."""

_WINDOW = f"""
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local present = math.floor(now / {SLOT_S})
local uses, num_requests, num_tokens = {{}}, 0, 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local kind, slot = string.match(fields[i], '^(%a)(%d+)$')
  slot = tonumber(slot)
  local count = tonumber(fields[i + 1])
  if slot <= present - {NUM_SLOTS} or slot > present + 1 then
    redis.call('HDEL', KEYS[1], fields[i])
  elseif slot <= present then
    uses[#uses + 1] = {{kind, slot, count}}
    if kind == 'r' then num_requests = num_requests + count
    else num_tokens = num_tokens + count end
  end
end
"""
_RESERVE = (
    _WINDOW
    + f"""
local most_requests, most_tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
local tokens = tonumber(ARGV[3])
local granted = (most_requests < 0 or num_requests + 1 <= most_requests)
  and (most_tokens < 0 or num_tokens + tokens <= most_tokens)
if granted then
  redis.call('HINCRBY', KEYS[1], 'r' .. present, 1)
  redis.call('HINCRBY', KEYS[1], 't' .. present, tokens)
  redis.call('EXPIRE', KEYS[1], {2 * LONGEST_S})
  uses[#uses + 1] = {{'r', present, 1}}
  uses[#uses + 1] = {{'t', present, tokens}}
end
return {{granted and 1 or 0, tostring(now), uses}}
"""
)
_READ = _WINDOW + "return {0, tostring(now), uses}"
_SETTLE = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  local count = redis.call('HINCRBY', KEYS[1], ARGV[1], ARGV[2])
  if count < 0 then redis.call('HSET', KEYS[1], ARGV[1], 0) end
end
return 0
"""

_Answer = tuple[int, bytes, list[tuple[bytes, int, int]]]


class RedisStore:
    """See ``Store``."""

    name = "redis"

    def __init__(self, url: str) -> None:
        """``url`` as in ``redis://[:password@]host:6379/0``; nothing is connected yet.

        Raises:
            StoreFailed: the URL has another form.
        """
        try:
            self._redis = Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        except ValueError as error:
            raise StoreFailed(str(error)) from error

    async def reserve(self, requests: Sequence[Reserve]) -> list[Judgement]:
        """See ``Store``."""
        answers = await self._run(
            _RESERVE, [(r.key, *_limits(r.quota), r.num_tokens) for r in requests]
        )
        return [Judgement(bool(answer[0]), _usage(answer)) for answer in answers]

    async def settle(self, corrections: Sequence[Settle]) -> None:
        """See ``Store``."""
        await self._run(_SETTLE, [(c.key, f"t{c.slot}", c.num_more_tokens) for c in corrections])

    async def usage(self) -> dict[str, Usage]:
        """See ``Store``."""
        pattern, length = f"{PREFIX}*", len(PREFIX)
        with _failures():
            names = [name async for name in self._redis.scan_iter(pattern, count=KEYS_A_PAGE)]
        keys = [name.decode()[length:] for name in names]
        answers = await self._run(_READ, [(key,) for key in keys])
        found = zip(keys, map(_usage, answers), strict=True)
        return {key: usage for key, usage in found if usage.slots}

    async def close(self) -> None:
        """See ``Store``."""
        await self._redis.aclose()

    async def _run(self, script: str, calls: Sequence[tuple[str | int, ...]]) -> list[_Answer]:
        """Run a script for each key with its arguments, all in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for key, *arguments in calls:
            pipeline.eval(script, 1, f"{PREFIX}{key}", *map(str, arguments))
        with _failures():
            return cast(list[_Answer], await pipeline.execute())


@contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreFailed(str(error) or type(error).__name__) from error


def _limits(quota: Quota) -> tuple[int, int]:
    """As the script takes them: -1 is no limit."""
    requests, tokens = quota.requests_per_minute, quota.tokens_per_minute
    return -1 if requests is None else requests, -1 if tokens is None else tokens


def _usage(answer: _Answer) -> Usage:
    """The counters of a script's answer, by slot."""
    counts: dict[int, dict[bytes, int]] = {}
    for kind, slot, count in answer[2]:
        of_slot = counts.setdefault(slot, {})
        of_slot[kind] = of_slot.get(kind, 0) + count
    slots = [Slot(slot, of.get(b"r", 0), of.get(b"t", 0)) for slot, of in sorted(counts.items())]
    return Usage(float(answer[1]), tuple(slots))
