"""What units are taken to hold of a prompt."""

from __future__ import annotations

import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from global_scheduler.bodies import parse_chat, parse_completion
from global_scheduler.prefixes import (
    COARSE_BLOCK,
    FINE_BLOCK,
    FINE_UP_TO,
    FIRST_CAPACITY_BLOCKS,
    MOST_CAPACITY_BLOCKS,
    NO_PREFIX,
    READ_UP_TO,
    HeldPrefixes,
    Prefix,
    prefix_of,
)
from global_scheduler.units import FAILURES_TO_LEAVE, Unit

SYSTEM = "You answer questions about the rules of the harbour. " * 20


def chat(*messages: tuple[str, str], model: str = "m", **fields: Any) -> Prefix:
    """The prefix of a conversation of (role, text)."""
    listed = [{"role": role, "content": text} for role, text in messages]
    return prefix_of(model, parse_chat(msgspec.json.encode({"messages": listed} | fields)))


def completion(prompt: object) -> Prefix:
    """The prefix of a completion's prompt."""
    return prefix_of("m", parse_completion(msgspec.json.encode({"prompt": prompt})))


def held(*prefixes: Prefix) -> HeldPrefixes:
    """A unit that was sent these."""
    unit = HeldPrefixes()
    for prefix in prefixes:
        unit.sent(prefix)
    return unit


def test_the_next_turn_of_a_conversation_is_recognised() -> None:
    """All but the newest question and the answer before it, in whole KV blocks."""
    first = [("system", SYSTEM), ("user", "May I moor here? " * 40)]
    later = [*first, ("assistant", "Yes. " * 30), ("user", "And at night? " * 10)]
    known = chat(*first).num_characters
    next_turn = chat(*later)
    num_tokens = next_turn.num_characters // 4
    cached = held(chat(*first)).num_cached_tokens(next_turn, num_tokens)
    assert known / 4 - FINE_BLOCK / 4 - 16 < cached <= known / 4
    assert cached % 16 == 0


def test_a_shared_system_prompt_is_recognised() -> None:
    """Other questions under the same instructions share their beginning only."""
    unit = held(chat(("system", SYSTEM), ("user", "May I moor here?" * 50)))
    other = chat(("system", SYSTEM), ("user", "Where is the customs house?" * 50))
    cached = unit.num_cached_tokens(other, other.num_characters // 4)
    assert len(SYSTEM) / 4 - 32 < cached <= len(SYSTEM) / 4 + 16


@pytest.mark.parametrize(
    "other",
    [
        chat(("user", SYSTEM), model="another"),
        chat(("system", SYSTEM)),
        chat(("user", SYSTEM), tools=[{"type": "function", "function": {"name": "f"}}]),
        chat(("user", "x" + SYSTEM)),
        completion(SYSTEM),
    ],
)
def test_what_differs_from_the_beginning_on_shares_nothing(other: Prefix) -> None:
    """Model, role, tools and the first character all stand before the first block's end."""
    assert held(chat(("user", SYSTEM))).num_cached_tokens(other, 500) == 0


def test_one_token_at_least_is_left_to_compute() -> None:
    """Even of the very same prompt, as engines do it."""
    prompt = completion(list(range(96)))
    unit = held(prompt)
    assert unit.num_cached_tokens(prompt, 96) == 80
    assert unit.num_cached_tokens(prompt, 97) == 96
    assert unit.num_cached_tokens(prompt, 1) == 0


def test_token_ids_are_recognised() -> None:
    """Blocks of sixteen; loose ids and a list of them are the same prompt."""
    unit = held(completion(list(range(1000))))
    longer = completion([[*range(1000), *range(500)]])
    assert unit.num_cached_tokens(longer, 1500) == 992
    assert unit.num_cached_tokens(completion([7, *range(1, 1000)]), 1000) == 0


def test_several_prompts_at_once_have_no_prefix() -> None:
    """Which of them a hit would belong to is not known."""
    assert completion(["a" * 500, "b" * 500]) is NO_PREFIX
    assert held(NO_PREFIX).num_cached_tokens(NO_PREFIX, 100) == 0


def test_tokens_follow_the_prompts_own_ratio() -> None:
    """Half of the characters are half of the tokens, whatever their number."""
    unit = held(completion("a" * 6400))
    twice = completion("a" * 6400 + "b" * 6400)
    assert [unit.num_cached_tokens(twice, tokens) for tokens in (320, 12_800)] == [160, 6400]


def test_long_prompts_are_recognised_in_coarser_steps() -> None:
    """And only as far as they are read, so that a megabyte costs no more than a few steps."""
    text = "".join(chr(97 + i % 26) for i in range(READ_UP_TO + 500_000))
    whole = completion(text)
    assert len(whole.hashes) == FINE_UP_TO // FINE_BLOCK + 1000
    unit = HeldPrefixes()
    unit.resize(2 * READ_UP_TO // FINE_BLOCK)
    unit.sent(whole)
    shared = FINE_UP_TO + 10 * COARSE_BLOCK
    forked = completion(text[: shared + 5] + "!" * 100_000)
    assert unit.num_cached_tokens(forked, forked.num_characters) == shared
    assert unit.num_cached_tokens(whole, whole.num_characters) == READ_UP_TO


def test_the_oldest_ends_are_forgotten_first() -> None:
    """As an engine frees blocks: what is left of a prompt is always its beginning."""
    old, new = completion("o" * 640), completion("n" * 640)
    unit = held(old)
    unit.resize(15)
    unit.sent(new)
    assert unit.num_cached_tokens(old, 640) == 5 * FINE_BLOCK
    assert unit.num_cached_tokens(new, 641) == 640
    unit.sent(old)
    assert unit.num_cached_tokens(new, 640) == 5 * FINE_BLOCK


prompts = st.lists(st.text("ab", min_size=64, max_size=64), min_size=1, max_size=6).map("".join)


@settings(max_examples=100)
@given(st.lists(prompts, max_size=30), st.integers(1, 20))
def test_a_unit_holds_prefixes_and_never_more_than_fits(sent: list[str], capacity: int) -> None:
    """Whatever was sent: every held block's predecessor is held, the newest prompt first of all."""
    unit = HeldPrefixes()
    unit.resize(capacity)
    for text in sent:
        prefix = completion(text)
        unit.sent(prefix)
        assert len(unit) <= capacity
        fits = min(capacity * FINE_BLOCK, len(text))
        assert unit.num_cached_tokens(prefix, len(text) + 1) == fits
    for text in sent:
        blocks = completion(text).hashes
        found = [Prefix((block,), FINE_BLOCK, "") for block in blocks]
        is_held = [unit.num_cached_tokens(prefix, FINE_BLOCK + 1) > 0 for prefix in found]
        assert is_held == sorted(is_held, reverse=True)


def test_memory_is_bounded() -> None:
    """A few megabytes for a unit, however much it is sent and whatever size it claims to have."""
    unit = HeldPrefixes()
    for number in range(40):
        unit.sent(completion(f"{number} " + "x" * FINE_UP_TO))
    assert len(unit) == FIRST_CAPACITY_BLOCKS
    unit.resize(10**9)
    for number in range(200):
        unit.sent(completion(f"{number} " + "y" * FINE_UP_TO))
    assert len(unit) == MOST_CAPACITY_BLOCKS
    per_entry = sys.getsizeof(unit._sizes) / len(unit) + sys.getsizeof(2**62)
    assert per_entry * MOST_CAPACITY_BLOCKS < 12e6


def test_a_unit_that_was_away_holds_nothing() -> None:
    """Its engine may have been started again."""
    prompt = completion(SYSTEM)
    for leave in (
        lambda unit: unit.refused("connection refused"),
        lambda unit: [unit.check_failed("timeout") for _ in range(FAILURES_TO_LEAVE)],
    ):
        unit = Unit("a", "http://a")
        unit.prefixes.sent(prompt)
        assert unit.prefixes.num_cached_tokens(prompt, 250) > 0
        leave(unit)
        assert unit.prefixes.num_cached_tokens(prompt, 250) == 0


def test_openings_stay_while_a_conversation_goes_on() -> None:
    """By them equal beginnings find the same unit, in each gateway."""
    turns = [("system", "Be brief."), ("user", "Hello"), ("assistant", "Hi"), ("user", "How?")]
    openings = {chat(*turns[:count]).opening for count in (2, 3, 4)}
    assert len(openings) == 1
    assert chat(("system", "Be brief."), ("user", "Goodbye")).opening not in openings
    assert completion("Hello").opening == "f56cea39cd5fa7c0"
