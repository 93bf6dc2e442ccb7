"""KV blocks with reference counts, a ring of free ones and a prefix cache.

The rules are those of ``predictor/simulator/blocks.py``.
"""

from __future__ import annotations

from exp.twin.kernel.layout import (
    AFTER,
    BEFORE,
    CHAIN,
    COMPUTED,
    FIRST_BUCKET,
    FIRST_HASH,
    FREE_HEAD,
    HASH,
    INDEX,
    NO_HASH,
    NONE,
    NUM_BLOCKS,
    NUM_BUCKETS,
    NUM_CACHED_BLOCKS,
    NUM_FREE,
    NUM_HASHES,
    REFERENCES,
    ROW,
    TOKENS,
    Fleet,
)
from predictor.simulator.kernel.compiled import inlined, seldom
from predictor.simulator.kernel.layout import BLOCK_SIZE, PREFIX_CACHING, Ints

_OWN_BITS = 24
"""A hash of its own has the request's index and, in these bits, the place of the block."""
_SPREAD = -7046029254386353131  # odd, near 2^64 divided by the golden ratio


@inlined
def blocks_of(num_tokens: int, block_size: int) -> int:
    """Blocks that hold so many tokens."""
    return (num_tokens + block_size - 1) // block_size


@seldom
def find_prefix(fleet: Fleet, unit: int, slot: int, row: int) -> tuple[int, int]:
    """(blocks, how many of them are free) of the longest cached prefix, written to a table's row.

    The last token is always computed anew.
    """
    block_size = fleet.limits[unit, BLOCK_SIZE]
    num_free = 0
    if fleet.limits[unit, PREFIX_CACHING] == 0:
        return 0, 0
    most = (fleet.seqs[slot, TOKENS] - 1) // block_size
    for place in range(most):
        block = _find(fleet, unit, _hash_of(fleet, slot, place))
        if block == NONE:
            return place, num_free
        fleet.tables[row, place] = block
        num_free += fleet.blocks[block, REFERENCES] == 0
    return most, num_free


@seldom
def count_hits(fleet: Fleet, unit: int, slot: int) -> int:
    """Tokens of a waiting sequence that the prefix cache holds."""
    block_size = fleet.limits[unit, BLOCK_SIZE]
    if fleet.limits[unit, PREFIX_CACHING] == 0:
        return 0
    most = (fleet.seqs[slot, TOKENS] - 1) // block_size
    for place in range(most):
        if _find(fleet, unit, _hash_of(fleet, slot, place)) == NONE:
            return place * block_size
    return most * block_size


@inlined
def hold_prefix(fleet: Fleet, unit: int, slot: int, num_hits: int) -> None:
    """Take the blocks that ``find_prefix`` has written to the sequence's row."""
    blocks, row = fleet.blocks, fleet.seqs[slot, ROW]
    for place in range(num_hits):
        block = fleet.tables[row, place]
        if blocks[block, REFERENCES] == 0:
            _unlink(blocks, block)
            fleet.engines[unit, NUM_FREE] -= 1
        blocks[block, REFERENCES] += 1
    fleet.seqs[slot, NUM_BLOCKS] = num_hits
    fleet.seqs[slot, NUM_CACHED_BLOCKS] = num_hits


@inlined
def extend(fleet: Fleet, unit: int, slot: int, num_tokens: int) -> None:
    """Give a sequence blocks for so many tokens, and let others find those that are full."""
    seqs, block_size = fleet.seqs, fleet.limits[unit, BLOCK_SIZE]
    while seqs[slot, NUM_BLOCKS] * block_size < num_tokens:
        _take_first(fleet, unit, slot)
    if fleet.limits[unit, PREFIX_CACHING] == 1:
        known = min(num_tokens, seqs[slot, TOKENS])
        while (seqs[slot, NUM_CACHED_BLOCKS] + 1) * block_size <= known:
            _cache_next(fleet, unit, slot)


@seldom
def release(fleet: Fleet, unit: int, slot: int) -> None:
    """Let go of all blocks, the last one first.

    Those that are not cached will be reused before all others, cached ones after all others.
    """
    blocks, seqs, head = fleet.blocks, fleet.seqs, fleet.engines[unit, FREE_HEAD]
    row, count = seqs[slot, ROW], seqs[slot, NUM_BLOCKS]
    for place in range(count - 1, -1, -1):
        block = fleet.tables[row, place]
        blocks[block, REFERENCES] -= 1
        if blocks[block, REFERENCES] == 0:
            fleet.engines[unit, NUM_FREE] += 1
            if blocks[block, HASH] != NO_HASH:
                _link(blocks, block, blocks[head, BEFORE], head)
    for place in range(count):
        block = fleet.tables[row, place]
        if blocks[block, HASH] == NO_HASH:
            _link(blocks, block, head, blocks[head, AFTER])
    seqs[slot, NUM_BLOCKS] = 0
    seqs[slot, NUM_CACHED_BLOCKS] = 0
    seqs[slot, COMPUTED] = 0


@seldom
def _take_first(fleet: Fleet, unit: int, slot: int) -> None:
    """Append the free block that was let go of longest ago."""
    blocks, seqs = fleet.blocks, fleet.seqs
    block = blocks[fleet.engines[unit, FREE_HEAD], AFTER]
    _unlink(blocks, block)
    if blocks[block, HASH] != NO_HASH:
        _evict(fleet, unit, block)
    blocks[block, REFERENCES] = 1
    fleet.tables[seqs[slot, ROW], seqs[slot, NUM_BLOCKS]] = block
    seqs[slot, NUM_BLOCKS] += 1
    fleet.engines[unit, NUM_FREE] -= 1


@seldom
def _cache_next(fleet: Fleet, unit: int, slot: int) -> None:
    """Make the sequence's next block findable, behind others of the same content."""
    blocks, seqs = fleet.blocks, fleet.seqs
    place = seqs[slot, NUM_CACHED_BLOCKS]
    block = fleet.tables[seqs[slot, ROW], place]
    block_hash = _hash_of(fleet, slot, place)
    bucket = _bucket_of(fleet, unit, block_hash)
    blocks[block, HASH] = block_hash
    blocks[block, CHAIN] = NONE
    last = fleet.buckets[bucket]
    if last == NONE:
        fleet.buckets[bucket] = block
    else:
        while blocks[last, CHAIN] != NONE:
            last = blocks[last, CHAIN]
        blocks[last, CHAIN] = block
    seqs[slot, NUM_CACHED_BLOCKS] = place + 1


@inlined
def _evict(fleet: Fleet, unit: int, block: int) -> None:
    blocks, buckets = fleet.blocks, fleet.buckets
    bucket = _bucket_of(fleet, unit, blocks[block, HASH])
    if buckets[bucket] == block:
        buckets[bucket] = blocks[block, CHAIN]
    else:
        before = buckets[bucket]
        while blocks[before, CHAIN] != block:
            before = blocks[before, CHAIN]
        blocks[before, CHAIN] = blocks[block, CHAIN]
    blocks[block, HASH] = NO_HASH


@inlined
def _find(fleet: Fleet, unit: int, block_hash: int) -> int:
    """The block that was cached first under this hash, or NONE."""
    block = fleet.buckets[_bucket_of(fleet, unit, block_hash)]
    while block != NONE and fleet.blocks[block, HASH] != block_hash:
        block = fleet.blocks[block, CHAIN]
    return block


@inlined
def _hash_of(fleet: Fleet, slot: int, place: int) -> int:
    """The hash of a full block; a negative one, which no other request has, where none is given."""
    if place < fleet.seqs[slot, NUM_HASHES]:
        return fleet.hashes[fleet.seqs[slot, FIRST_HASH] + place]
    return -1 - ((fleet.seqs[slot, INDEX] << _OWN_BITS) | place)


@inlined
def _bucket_of(fleet: Fleet, unit: int, block_hash: int) -> int:
    spread = (block_hash * _SPREAD) >> 32
    return fleet.engines[unit, FIRST_BUCKET] + (spread & (fleet.engines[unit, NUM_BUCKETS] - 1))


@inlined
def _link(blocks: Ints, block: int, before: int, after: int) -> None:
    blocks[block, BEFORE] = before
    blocks[block, AFTER] = after
    blocks[before, AFTER] = block
    blocks[after, BEFORE] = block


@inlined
def _unlink(blocks: Ints, block: int) -> None:
    blocks[blocks[block, BEFORE], AFTER] = blocks[block, AFTER]
    blocks[blocks[block, AFTER], BEFORE] = blocks[block, BEFORE]
