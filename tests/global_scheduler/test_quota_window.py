"""The sliding minute, and how quotas are written."""

from __future__ import annotations

import pytest

from global_scheduler.errors import BadRequest
from global_scheduler.quotas.keys import Quotas, key_id, parse_quotas
from global_scheduler.quotas.ratelimit_headers import ratelimit_headers
from global_scheduler.quotas.window import (
    NUM_SLOTS,
    SLOT_S,
    Quota,
    Slot,
    Usage,
    fits,
    reset_s,
    retry_after_s,
)

NOW = 1_000_000_003.0
PRESENT = 200_000_000
"""The slot of NOW, three seconds old."""
QUOTA = Quota(requests_per_minute=5, tokens_per_minute=1000)


def usage(*slots: tuple[int, int, int]) -> Usage:
    """From (slots ago, requests, tokens)."""
    return Usage(NOW, [Slot(PRESENT - ago, requests, tokens) for ago, requests, tokens in slots])


def test_both_limits_count() -> None:
    """The last request and the last token still fit; no limit is none."""
    used = usage((3, 2, 500), (0, 2, 300))
    assert fits(QUOTA, used, 200)
    assert not fits(QUOTA, used, 201)
    assert not fits(Quota(4, None), used, 0)
    assert fits(Quota(None, None), used, 10**9)


def test_retry_after_is_when_enough_has_left_the_window() -> None:
    """Slot by slot, oldest first; what can never fit is told a whole window."""
    used = usage((12, 1, 100), (5, 3, 600), (0, 1, 300))
    oldest_ends_s, next_ends_s = 2.0, 2.0 + 7 * SLOT_S
    assert retry_after_s(QUOTA, used, 0) == oldest_ends_s
    assert retry_after_s(QUOTA, used, 100) == oldest_ends_s
    assert retry_after_s(QUOTA, used, 101) == next_ends_s
    assert retry_after_s(QUOTA, used, 701) == 2.0 + 12 * SLOT_S
    assert retry_after_s(QUOTA, used, 1001) == NUM_SLOTS * SLOT_S


def test_a_reset_is_when_nothing_counts_any_more() -> None:
    """Requests whose tokens were given back have none to wait for."""
    used = usage((5, 1, 100), (0, 1, 0))
    assert reset_s(used, of_tokens=False) == 2.0 + 12 * SLOT_S
    assert reset_s(used, of_tokens=True) == 2.0 + 7 * SLOT_S
    assert reset_s(usage(), of_tokens=True) == 0.0


def test_headers_are_openais() -> None:
    """Of the limits that there are; nothing remains rather than less than nothing."""
    headers = dict(ratelimit_headers(QUOTA, usage((0, 1, 1200))))
    assert headers == {
        b"x-ratelimit-limit-requests": b"5",
        b"x-ratelimit-remaining-requests": b"4",
        b"x-ratelimit-reset-requests": b"1m2s",
        b"x-ratelimit-limit-tokens": b"1000",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1m2s",
    }
    only_tokens = ratelimit_headers(Quota(None, 10), usage())
    assert [name for name, _ in only_tokens] == [
        b"x-ratelimit-limit-tokens",
        b"x-ratelimit-remaining-tokens",
        b"x-ratelimit-reset-tokens",
    ]
    assert only_tokens[-1][1] == b"0s"


def test_quotas_are_read_by_key() -> None:
    """Keys may hold an equals sign; the default stands in for all others."""
    quotas = parse_quotas(["default=60/-", "sk-a==-/5000", "sk-b=7/8"])
    assert quotas.of(key_id(b"Bearer sk-a=")) == Quota(None, 5000)
    assert quotas.of(key_id(b"Bearer sk-b")) == Quota(7, 8)
    assert quotas.of(key_id(b"Bearer sk-c")) == quotas.of(key_id(None)) == Quota(60, None)
    assert parse_quotas([]) == Quotas(None, {})


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["sk-secret"], "must look like"),
        (["=1/2"], "must look like"),
        (["sk-secret=60"], "got KEY='60'"),
        (["sk-secret=0/5"], "got '0'"),
        (["sk-secret=5/x"], "got 'x'"),
        (["sk-secret=5/-1"], "got '-1'"),
        (["sk-secret=1/2", "sk-secret=3/4"], "the second is '3/4'"),
        (["default=1/2", "default=3/4"], "the second is '3/4'"),
    ],
)
def test_a_wrong_quota_is_named_without_its_key(texts: list[str], message: str) -> None:
    """An operator's screen is no place for keys."""
    with pytest.raises(BadRequest, match=message) as raised:
        parse_quotas(texts)
    assert "secret" not in str(raised.value)


def test_keys_are_known_by_a_digest() -> None:
    """The same in every gateway, whatever the scheme's spelling."""
    known = key_id(b"Bearer sk-1")
    assert known == key_id(b"bearer sk-1") == "0f2c10bf3d128c719c6bfa4ecbae94b7"
    assert key_id(b"Bearer sk-2") != known
    assert key_id(None) == key_id(b"") == "anonymous"
