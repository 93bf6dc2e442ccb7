"""How much of each waiting prompt vLLM's prefix cache holds, looked up within a time budget.

A lookup walks the prompt's blocks and costs up to some hundred microseconds for a long hit, and the
cache changes at nearly every step. So hits are remembered, and refreshed from the head of the queue
on as far as the budget goes: every round of lookups earns BUDGET_S, and one that costs more is paid
off by rounds without lookups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

BUDGET_S = 15e-6
MAX_LOOKUPS = 8


class PrefixHits:
    """Knows the prefix hits of the waiting requests of one vLLM scheduler."""

    def __init__(self, kv_cache_manager: Any, clock: Callable[[], float]) -> None:
        self._enabled = bool(getattr(kv_cache_manager, "enable_caching", False))
        # Not the manager's own get_computed_blocks, which counts towards vLLM's hit rate.
        self._find = kv_cache_manager.coordinator.find_longest_cache_hit
        self._clock = clock
        self._balance_s = 0.0
        self._num_cached_tokens: dict[str, int] = {}

    def refresh(self, waiting: Iterable[Any]) -> None:
        """Look up what the budget allows, requests never looked up first."""
        if not self._enabled:
            return
        requests = list(waiting)
        known = self._num_cached_tokens
        self._num_cached_tokens = {
            request.request_id: known[request.request_id]
            for request in requests
            if request.request_id in known
        }
        self._balance_s = min(self._balance_s + BUDGET_S, BUDGET_S)
        unknown = [request for request in requests if request.request_id not in known]
        for request in (unknown + requests)[:MAX_LOOKUPS]:
            if self._balance_s <= 0:
                return
            self._look_up(request)

    def _look_up(self, request: Any) -> None:
        started = self._clock()
        num_tokens = 0
        if not getattr(request, "skip_reading_prefix_cache", False):
            # At least one token is always computed, to have something to sample from.
            num_tokens = self._find(request.block_hashes, request.num_tokens - 1)[1]
        self._num_cached_tokens[request.request_id] = num_tokens
        self._balance_s -= self._clock() - started

    def of(self, request_id: str) -> int:
        """Tokens of the request that the cache held at its last lookup; 0 before the first."""
        return self._num_cached_tokens.get(request_id, 0)
