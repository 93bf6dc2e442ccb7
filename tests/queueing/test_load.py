"""How loaded units are taken to be, by what is known of them."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from global_scheduler.queueing.load import (
    ASSUMED_MAX_NUM_SEQS,
    FRESH_S,
    FULL_FROM_QUEUE_S,
    facts_of,
    fleet_load,
    load_of,
    places,
)
from global_scheduler.queueing.tickets import NO_LIMIT, EngineFacts, Room
from tests.global_scheduler.fleet import prediction

NOW_S = 100.0


def unit(active: int, limit: int = NO_LIMIT, **told: float | int) -> Room:
    """A unit of whose engine this was told just now."""
    facts = EngineFacts(**({"told_s": NOW_S} | told))  # type: ignore[arg-type]
    return Room("a", {"m"}, None, limit, active, engine=facts)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (unit(0), ASSUMED_MAX_NUM_SEQS),
        (unit(0, limit=8), 8),
        (unit(0, max_num_seqs=48), 48),
        (unit(0, limit=8, max_num_seqs=48), 8),
        (unit(0, limit=400, max_num_seqs=48), 48),
    ],
)
def test_places_are_what_limit_and_engine_allow(room: Room, expected: int) -> None:
    """The smaller of both; of what nobody knows, vLLM's default."""
    assert places(room.limit, room.engine) == expected


def test_the_fullest_of_requests_blocks_and_queue_counts() -> None:
    """Each of them can be what an engine is short of."""
    assert load_of(unit(12, max_num_seqs=48), NOW_S) == 0.25
    assert load_of(unit(12, max_num_seqs=48, kv_share=0.7), NOW_S) == 0.7
    assert load_of(unit(36, max_num_seqs=48, kv_share=0.7), NOW_S) == 0.75
    assert load_of(unit(12, max_num_seqs=48, queue_s=FULL_FROM_QUEUE_S), NOW_S) == 1.0
    assert load_of(unit(12, max_num_seqs=48, queue_s=0.2), NOW_S) == 0.25
    assert load_of(unit(60, max_num_seqs=48), NOW_S) == 1.0


def test_what_was_told_long_ago_says_nothing_of_now() -> None:
    """But how many requests an engine runs at a time stays."""
    full = unit(12, max_num_seqs=48, kv_share=0.9, queue_s=30.0)
    assert load_of(full, NOW_S + FRESH_S) == 1.0
    assert load_of(full, NOW_S + FRESH_S + 0.1) == 0.25


def test_units_count_by_what_they_can_take() -> None:
    """A full small one beside an empty large one is not half a fleet."""
    small, large = unit(4, limit=4), unit(0, max_num_seqs=96)
    assert fleet_load([small, large], NOW_S) == 0.04
    assert fleet_load([small, replace(large, active=96)], NOW_S) == 1.0
    assert fleet_load([], NOW_S) == 1.0


def test_answers_that_cannot_be_say_nothing() -> None:
    """Nor do those of a sidecar that does not tell, or has played nothing."""
    told = facts_of(
        prediction(max_num_seqs=8, kv_blocks_free=25, kv_blocks_total=100, queue_ms=500), 3.0
    )
    assert told == EngineFacts(3.0, 8, 0.75, 0.5)
    for nonsense in ({"kv_blocks_total": 0}, {"kv_blocks_free": 200}, {"kv_blocks_free": -1}):
        assert facts_of(prediction(**nonsense), 3.0).kv_share is None
    assert facts_of(prediction(max_num_seqs=-5), 3.0).max_num_seqs is None
    silent = facts_of(prediction(backend="none"), 3.0)
    assert (silent.max_num_seqs, silent.queue_s) == (None, None)
