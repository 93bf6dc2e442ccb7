"""API keys as quotas know them: by a digest, so that no store and no log holds a key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from global_scheduler.errors import BadRequest
from global_scheduler.quotas.window import Quota
from wire.bounded_numbers import LARGEST, try_count

DEFAULT = "default"
ANONYMOUS = "anonymous"
"""Requests without a key share this one."""
UNLIMITED = "-"


def key_id(authorization: bytes | None) -> str:
    """Of the key in an ``Authorization`` header: 32 digits of its SHA-256, in hexadecimal."""
    _, _, key = (authorization or b"").partition(b" ")
    return hashlib.sha256(key).hexdigest()[:32] if key else ANONYMOUS


@dataclass(slots=True)
class Quotas:
    """The quota of each key; the admin API changes them while the gateway runs."""

    default: Quota | None
    """Of every key without one of its own; None leaves those without limits."""
    by_key: dict[str, Quota]

    def __bool__(self) -> bool:
        """Whether any key has one."""
        return self.default is not None or bool(self.by_key)

    def of(self, key: str) -> Quota | None:
        """The quota of a key."""
        return self.by_key.get(key, self.default)


def parse_quotas(texts: Iterable[str]) -> Quotas:
    """From ``KEY=REQUESTS/TOKENS``, as ``--quota`` takes it; see ``parse_quota``.

    Raises:
        BadRequest: a text has another form, or a key has two quotas. Keys are not told.
    """
    quotas = Quotas(None, {})
    for text in texts:
        key, equals, limits = text.rpartition("=")
        if not equals or not key:
            raise BadRequest("--quota must look like KEY=REQUESTS/TOKENS")
        quota, known = parse_quota(limits), key_id(b"Bearer " + key.encode())
        if known in quotas.by_key or (key == DEFAULT and quotas.default is not None):
            raise BadRequest(f"--quota: two for one key, the second is {limits!r}")
        if key == DEFAULT:
            quotas.default = quota
        else:
            quotas.by_key[known] = quota
    return quotas


def parse_quota(text: str) -> Quota:
    """From ``REQUESTS/TOKENS`` a minute, each a number from 1 or ``-`` for no limit.

    Raises:
        BadRequest: the text has another form.
    """
    requests, slash, tokens = text.partition("/")
    if not slash:
        raise BadRequest(f"--quota must look like KEY=REQUESTS/TOKENS, got KEY={text!r}")
    return Quota(_limit(requests), _limit(tokens))


def _limit(text: str) -> int | None:
    if text == UNLIMITED:
        return None
    limit = try_count(text)
    if limit is None:
        raise BadRequest(
            f"--quota: limits are whole numbers from 1 to {LARGEST}, or -, got {text!r}"
        )
    return limit
