"""What recognising prefixes costs the gateway, and how much memory a unit's account takes.

Pure code, in process. Medians of several rounds, in microseconds: hashing a chat of so many
characters, looking it up on one unit, noting it as sent; parsing its body, for comparison.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
import time
import tracemalloc
from collections.abc import Callable

import msgspec

from global_scheduler.bodies import parse_chat
from global_scheduler.prefixes import (
    FINE_UP_TO,
    FIRST_CAPACITY_BLOCKS,
    MOST_CAPACITY_BLOCKS,
    HeldPrefixes,
    prefix_of,
)

SIZES = (4_000, 32_000, 1_000_000)


def main() -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=51)
    rounds = parser.parse_args().rounds
    result = {
        "us_by_characters": {size: _costs_us(size, rounds) for size in SIZES},
        "unit_mb": {
            blocks: round(_held_mb(blocks), 1)
            for blocks in (FIRST_CAPACITY_BLOCKS, MOST_CAPACITY_BLOCKS)
        },
    }
    print(json.dumps(result))
    return 0


def _costs_us(num_characters: int, rounds: int) -> dict[str, float]:
    body = _chat(num_characters)
    request = parse_chat(body)
    prefix = prefix_of("model", request)
    unit = HeldPrefixes()
    unit.sent(prefix)
    return {
        "parse": _median_us(lambda: parse_chat(body), rounds),
        "hash": _median_us(lambda: prefix_of("model", request), rounds),
        "look_up": _median_us(lambda: unit.num_cached_tokens(prefix, 1_000), rounds),
        "note": _median_us(lambda: unit.sent(prefix), rounds),
    }


def _held_mb(num_blocks: int) -> float:
    """What a full account takes."""
    tracemalloc.start()
    unit = HeldPrefixes()
    unit.resize(num_blocks)
    number = 0
    while len(unit) < num_blocks:
        unit.sent(prefix_of(f"model {number}", parse_chat(_chat(FINE_UP_TO))))
        number += 1
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return size / 1e6


def _chat(num_characters: int) -> bytes:
    rng = random.Random(0)
    text = "".join(rng.choices(string.ascii_lowercase + " ", k=num_characters))
    messages = [
        {"role": "system", "content": text[: num_characters // 2]},
        {"role": "user", "content": text[num_characters // 2 :]},
    ]
    return msgspec.json.encode({"messages": messages})


def _median_us(call: Callable[[], object], rounds: int) -> float:
    took_s = []
    for _ in range(rounds):
        started_s = time.perf_counter()
        call()
        took_s.append(time.perf_counter() - started_s)
    return round(sorted(took_s)[rounds // 2] * 1e6, 1)


if __name__ == "__main__":
    sys.exit(main())
