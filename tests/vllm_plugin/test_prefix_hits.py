"""Looking up waiting prompts within a time budget."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

from predictor.vllm_plugin.prefix_hits import BUDGET_S, MAX_LOOKUPS, PrefixHits


@dataclass
class Cache:
    """A prefix cache whose lookups take time on a clock of its own."""

    lookup_s: float
    enable_caching: bool = True
    now_s: float = 0.0
    hit: int = 32
    looked_up: list[str] = field(default_factory=list)

    @property
    def coordinator(self) -> Cache:
        return self

    def find_longest_cache_hit(self, hashes: str, max_length: int) -> tuple[tuple[()], int, int]:
        self.now_s += self.lookup_s
        self.looked_up.append(hashes)
        return (), min(self.hit, max_length), 0


def request(name: str) -> SimpleNamespace:
    """A waiting request whose block hashes are its name."""
    return SimpleNamespace(request_id=name, block_hashes=name, num_tokens=100, num_preemptions=0)


def test_cheap_lookups_are_refreshed_from_the_head() -> None:
    """The newest hit of the requests that are admitted next."""
    cache = Cache(lookup_s=0.0)
    hits = PrefixHits(cache, lambda: cache.now_s)
    waiting = [request(str(index)) for index in range(20)]
    hits.refresh(waiting)
    cache.hit = 64
    hits.refresh(waiting[:MAX_LOOKUPS])
    assert hits.of("0") == 64
    assert hits.of("19") == 0


def test_expensive_lookups_are_paid_off_before_the_next() -> None:
    """One lookup of ten budgets is followed by nine steps without."""
    cache = Cache(lookup_s=10 * BUDGET_S)
    hits = PrefixHits(cache, lambda: cache.now_s)
    waiting = [request("a"), request("b")]
    for _ in range(11):
        hits.refresh(waiting)
    assert cache.looked_up == ["a", "b"]
    assert hits.of("a") == hits.of("b") == 32


def test_preempted_requests_are_looked_up_first() -> None:
    """What a request had computed is in the cache when it comes back to wait."""
    cache = Cache(lookup_s=10 * BUDGET_S)
    hits = PrefixHits(cache, lambda: cache.now_s)
    waiting = [request(str(index)) for index in range(3)]
    for _ in range(21):
        hits.refresh(waiting)
    waiting[2].num_preemptions = 1
    for _ in range(10):
        hits.refresh(waiting)
    assert cache.looked_up == ["0", "1", "2", "2"]


def test_new_head_is_looked_up_at_once() -> None:
    """The next one to be admitted is worth more than the budget, once."""
    cache = Cache(lookup_s=10 * BUDGET_S)
    hits = PrefixHits(cache, lambda: cache.now_s)
    last, first = request("last"), request("first")
    hits.refresh([last])
    hits.refresh([first, last])
    hits.refresh([first, last])
    assert cache.looked_up == ["last", "first"]


def test_requests_that_left_are_forgotten() -> None:
    """What is remembered stays in proportion to what waits."""
    cache = Cache(lookup_s=0.0)
    hits = PrefixHits(cache, lambda: cache.now_s)
    for index in range(100):
        hits.refresh([request(str(index))])
    assert len(hits._num_cached_tokens) <= 4
    hits.refresh([])
    assert hits._num_cached_tokens == {}


def test_requests_that_skip_the_cache_have_no_hit() -> None:
    """vLLM recomputes all of a prompt whose log probabilities are asked for."""
    cache = Cache(lookup_s=0.0)
    hits = PrefixHits(cache, lambda: cache.now_s)
    skipping = request("a")
    skipping.skip_reading_prefix_cache = True
    hits.refresh([skipping])
    assert (hits.of("a"), cache.looked_up) == (0, [])
