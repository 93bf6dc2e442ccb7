"""The twin's engines do exactly what the simulator's scheduler does, and what their users ask."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from exp.twin.engines import END, FIRST_TOKEN, EngineEvent, EngineRequest, Engines, EngineSpec
from exp.twin.errors import EngineDown
from exp.twin.kernel import layout
from tests.twin.reference_engine import STEP_TIME, EnginePair
from wire.snapshot import EngineLimits

LIMITS = EngineLimits(
    max_num_seqs=4, max_num_batched_tokens=64, max_model_len=512, block_size=16, num_gpu_blocks=64
)
TABLE = STEP_TIME.tabulate(68, 4)
NO_HASHES: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


def make_engines(count: int = 1, noise: float = 0.0, seed: int = 1, **limits: object) -> Engines:
    """Small engines without noise."""
    bounds = EngineLimits(**{**{f: getattr(LIMITS, f) for f in LIMITS.__struct_fields__}, **limits})
    return Engines([EngineSpec(bounds, TABLE, noise)] * count, seed=seed)


def request(index: int, prompt: int = 40, length: int = 5) -> EngineRequest:
    """A request that shares nothing with others."""
    return EngineRequest(index, prompt, length, 400, 0, NO_HASHES)


def play(engines: Engines, until_s: float = math.inf) -> list[EngineEvent]:
    """All events up to a moment."""
    all_events = []
    while events := engines.advance(until_s):
        all_events += events
    return all_events


def ends(events: list[EngineEvent]) -> dict[int, EngineEvent]:
    """The ends among events, by index."""
    return {event.index: event for event in events if event.kind == END}


@pytest.mark.parametrize("seed", range(40))
def test_every_step_is_that_of_the_scheduler(seed: int) -> None:
    """Chunks, order, free blocks, prefix hits and ends, with preemptions, aborts and arrivals."""
    pair = EnginePair(seed)
    for _ in range(pair.rng.randint(1, 30)):
        pair.add()
    for _ in range(150):
        pair.step()
    assert pair.num_ended > 0


def test_the_comparison_meets_every_rule() -> None:
    """Some of the random engines preempt, and some find prefixes."""
    pairs = [EnginePair(seed) for seed in range(8)]
    for pair in pairs:
        for _ in range(20):
            pair.add()
        for _ in range(150):
            pair.step()
    assert sum(pair.num_preempted for pair in pairs) > 20
    assert sum(pair.num_hits for pair in pairs) > 50


def test_all_blocks_are_free_in_the_end() -> None:
    """No reference is left, and the ring of free blocks holds each of them once."""
    engines = make_engines(enable_prefix_caching=True, num_gpu_blocks=32)
    for index in range(20):
        engines.add(0, request(index, prompt=100, length=60))
    play(engines)
    fleet, head = engines.fleet, int(engines.fleet.engines[0, layout.FREE_HEAD])
    ring, block = set(), int(fleet.blocks[head, layout.AFTER])
    while block != head:
        ring.add(block)
        block = int(fleet.blocks[block, layout.AFTER])
    assert ring == set(range(32))
    assert fleet.engines[0, layout.NUM_FREE] == 32
    assert not fleet.blocks[:, layout.REFERENCES].any()


def test_engines_of_a_fleet_play_as_if_alone() -> None:
    """Their events come in the order of time."""
    together = make_engines(3)
    for unit in range(3):
        together.add(unit, request(unit, prompt=20 + 30 * unit, length=10 * unit + 3))
    events = play(together)
    for unit in range(3):
        alone = make_engines(1)
        alone.add(0, request(unit, prompt=20 + 30 * unit, length=10 * unit + 3))
        assert [replace(e, unit=unit) for e in play(alone)] == [e for e in events if e.unit == unit]
    assert [e.time_s for e in events] == sorted(e.time_s for e in events)


def test_time_passes_when_nothing_happens() -> None:
    """``advance`` stops where it is told, but not at infinity."""
    engines = make_engines()
    assert engines.advance(2.5) == []
    assert engines.now_s == 2.5
    assert engines.advance(math.inf) == []
    assert engines.now_s == 2.5


def test_a_request_may_have_one_token_only() -> None:
    """Both of its events come with the same step."""
    engines = make_engines()
    engines.add(0, request(7, length=1))
    events = engines.advance(math.inf)
    assert [(event.kind, event.index) for event in events] == [(FIRST_TOKEN, 7), (END, 7)]


def test_the_same_seed_gives_the_same_noise() -> None:
    """Other seeds and other units have other noise, which lengthens no step on average."""

    def last_end(seed: int, unit: int) -> float:
        engines = make_engines(2, noise=0.2, seed=seed)
        engines.add(unit, request(0, length=400))
        return play(engines)[-1].time_s

    exact = make_engines(2)
    exact.add(0, request(0, length=400))
    exact_s = play(exact)[-1].time_s
    assert last_end(1, 0) == last_end(1, 0)
    assert len({last_end(1, 0), last_end(2, 0), last_end(1, 1)}) == 3
    assert last_end(1, 0) == pytest.approx(exact_s, rel=0.04)


def test_who_is_aborted_has_no_more_events() -> None:
    """Whether it runs in the step under way or waits; its blocks are free at the step's end."""
    engines = make_engines(max_num_seqs=1)
    for index in range(3):
        engines.add(0, request(index))
    engines.advance(0.0)
    for index in (0, 1, 99):
        engines.abort(0, index)
    assert set(ends(play(engines))) == {2}
    assert engines.fleet.engines[0, layout.NUM_FREE] == LIMITS.num_gpu_blocks


def test_an_engine_that_fails_loses_all_and_comes_back_cold() -> None:
    """It takes nothing until then."""
    engines = make_engines(2, enable_prefix_caching=True)
    hashes: NDArray[np.int64] = np.arange(3)
    for index in range(6):
        engines.add(0, replace(request(index), block_hashes=hashes))
    engines.add(1, request(6))
    assert engines.advance(math.inf)
    assert engines.fail(0) == list(range(6))
    with pytest.raises(EngineDown, match="engine 0"):
        engines.add(0, request(9))
    assert set(ends(play(engines))) == {6}
    engines.recover(0)
    engines.add(0, replace(request(9), block_hashes=hashes))
    assert ends(play(engines))[9].num_cached_tokens == 0
    assert engines.fleet.engines[0, layout.NUM_FREE] == LIMITS.num_gpu_blocks


def test_a_moved_request_goes_on_where_it_was() -> None:
    """It needs as many steps in all as one that stays, and has one first token."""
    staying, moving = make_engines(), make_engines(2)
    staying.add(0, request(0, length=20))
    stayed = ends(play(staying))[0]
    moving.add(0, request(0, length=20))
    (first,) = moving.advance(math.inf)
    moving.advance(first.time_s * 1.5)
    moved = moving.take(0, 0)
    assert moved.num_computed_tokens == 40 + moved.num_output_tokens - 1
    assert moving.fleet.engines[0, layout.NUM_FREE] == LIMITS.num_gpu_blocks
    moving.put(1, moved)
    events = play(moving)
    assert [event.kind for event in events] == [END]
    assert (events[0].unit, events[0].num_output_tokens) == (1, 20)
    steps = moving.fleet.engines[:, layout.STEP]
    # One step was under way when it left.
    assert steps.sum() == staying.fleet.engines[0, layout.STEP] + 1
    assert stayed.num_output_tokens == 20


def test_a_moved_request_waits_in_front() -> None:
    """For a seat, before those that have waited longer."""
    engines = make_engines(2, max_num_seqs=1)
    engines.add(0, request(0, length=20))
    engines.add(1, request(1, length=20))
    engines.add(1, request(2, length=20))
    engines.advance(math.inf)
    engines.put(1, engines.take(0, 0))
    order = list(ends(play(engines)))
    assert order == [1, 0, 2]


def test_memory_grows_with_the_queue() -> None:
    """Slots and hashes; what came early is still what it was."""
    engines = make_engines(enable_prefix_caching=True, max_model_len=500)
    for index in range(3000):
        hashes: NDArray[np.int64] = np.arange(31) + 1000 * (index // 2)
        engines.add(0, replace(request(index, prompt=450, length=1), block_hashes=hashes))
    ended = ends(play(engines))
    assert len(ended) == 3000
    assert sum(event.num_cached_tokens for event in ended.values()) > 1000 * 400


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (request(0), "request 0 is there already"),
        (request(1, prompt=512), "from 1 to 511, got 512"),
        (request(1, prompt=400, length=200), "its 600 tokens exceed the KV cache's 480"),
        (replace(request(1), block_hashes=np.array([-5])), "negative block hash -5"),
    ],
)
def test_requests_that_cannot_be_are_refused(wrong: EngineRequest, message: str) -> None:
    """With an error that names the request and the value."""
    engines = make_engines(num_gpu_blocks=30)
    engines.add(0, request(0))
    with pytest.raises(ValueError, match=message):
        engines.add(0, wrong)


def test_async_scheduling_is_refused() -> None:
    """The twin does not play it."""
    with pytest.raises(ValueError, match="engine 0: async_scheduling"):
        make_engines(async_scheduling=True)
