"""How much of each waiting prompt vLLM's prefix cache holds, looked up within a time budget.

A lookup walks the prompt's blocks and costs up to some hundred microseconds for a long hit, and the
cache changes at nearly every step. So hits are remembered, and refreshed from the head of the queue
on as far as the budget goes: every step earns BUDGET_S, and a lookup that costs more is paid off by
steps without any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

BUDGET_S = 5e-6
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
        self._num_preemptions: dict[str, int] = {}
        """At the last lookup: one that was preempted since is another sequence to the cache."""

    def refresh(self, waiting: list[Any]) -> None:
        """Look up what the budget allows, first what is new or was preempted. Once a step."""
        known = self._num_cached_tokens
        self._balance_s = min(self._balance_s + BUDGET_S, BUDGET_S)
        if not self._enabled or not waiting:
            known.clear()
            self._num_preemptions.clear()
            return
        if len(known) > 2 * len(waiting):
            live = {request.request_id for request in waiting}
            known = {key: known[key] for key in live & known.keys()}
            self._num_cached_tokens = known
            self._num_preemptions = {key: self._num_preemptions[key] for key in known}
        looked_up = self._num_preemptions
        unknown = [r for r in waiting if looked_up.get(r.request_id) != r.num_preemptions]
        if unknown and unknown[0] is waiting[0]:
            self._look_up(unknown.pop(0))  # admitted next, whatever the budget: paid off later
        for request in (unknown + waiting)[:MAX_LOOKUPS]:
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
        self._num_preemptions[request.request_id] = request.num_preemptions
        self._balance_s -= self._clock() - started

    def of(self, request_id: str) -> int:
        """Tokens of the request that the cache held at its last lookup; 0 before the first."""
        return self._num_cached_tokens.get(request_id, 0)
