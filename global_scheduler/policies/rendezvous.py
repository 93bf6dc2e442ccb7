"""Rendezvous hashing (Thaler and Ravishankar, 1998): each key has its own order of the units.

When a unit leaves, only the keys that stood first with it move, each to its own next unit; when it
comes back they return. No ring has to be kept, and gateways agree without talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from global_scheduler.policies.base import Candidate


def by_preference(key: str, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in the order of this key."""
    return sorted(candidates, key=lambda candidate: _score(key, candidate.unit), reverse=True)


def _score(key: str, unit: str) -> bytes:
    # The key's own digest in between, so that no key and name run into one another.
    digest = hashlib.blake2b(key.encode(errors="replace"), digest_size=16).digest()
    return hashlib.blake2b(digest + unit.encode(), digest_size=8).digest()
