"""Paged KV blocks with reference counts and a prefix cache.

Mirrors ``vllm/v1/core/block_pool.py``, ``kv_cache_manager.py`` and the full-attention manager of
``single_type_kv_cache_manager.py`` (0.32) for one group of full-attention layers. vLLM's null block
is left out: all blocks here can be given to requests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from predictor.simulator.sequence import BlockHash, Sequence


class BlockPool:
    """All blocks of an engine. A free block may still be cached, until it is reused."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.ref_counts = [0] * num_blocks
        self._hashes: dict[int, BlockHash] = {}
        self._cached: dict[BlockHash, dict[int, None]] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones included."""
        return len(self._free)

    def find(self, block_hash: BlockHash) -> int | None:
        """The block that was cached first under this hash, or None."""
        blocks = self._cached.get(block_hash)
        return next(iter(blocks)) if blocks else None

    def allocate(self, count: int) -> list[int]:
        """Take blocks from the front of the free queue; the least recently used cached ones last.

        Raises:
            ValueError: fewer blocks are free.
        """
        if count > self.num_free:
            raise ValueError(f"cannot take {count} blocks: {self.num_free} are free")
        taken = [self._free.popitem(last=False)[0] for _ in range(count)]
        for block in taken:
            self._evict(block)
            self.ref_counts[block] = 1
        return taken

    def touch(self, blocks: Iterable[int]) -> None:
        """Hold blocks that were found in the cache."""
        for block in blocks:
            if self.ref_counts[block] == 0:
                del self._free[block]
            self.ref_counts[block] += 1

    def cache(self, block: int, block_hash: BlockHash) -> None:
        """Make a full block findable."""
        self._hashes[block] = block_hash
        self._cached.setdefault(block_hash, {})[block] = None

    def free(self, blocks: Iterable[int]) -> None:
        """Let go of blocks, the first to be reused first.

        Blocks without a hash are reused before all others, cached ones after all others.
        """
        released = []
        for block in blocks:
            self.ref_counts[block] -= 1
            if self.ref_counts[block] == 0:
                released.append(block)
        for block in reversed([b for b in released if b not in self._hashes]):
            self._free[block] = None
            self._free.move_to_end(block, last=False)
        self._free.update(dict.fromkeys(b for b in released if b in self._hashes))

    def last_free(self, count: int) -> list[int]:
        """The free blocks that will be reused last and are not cached, last one first."""
        uncached = (block for block in reversed(self._free) if block not in self._hashes)
        return [block for block, _ in zip(uncached, range(count), strict=False)]

    def _evict(self, block: int) -> None:
        block_hash = self._hashes.pop(block, None)
        if block_hash is None:
            return
        holders = self._cached[block_hash]
        del holders[block]
        if not holders:
            del self._cached[block_hash]


class KvCache:
    """Gives blocks to sequences (vLLM's ``KVCacheManager``)."""

    def __init__(self, num_blocks: int, block_size: int, enable_caching: bool) -> None:
        self.pool = BlockPool(num_blocks)
        self.block_size = block_size
        self.enable_caching = enable_caching

    def find_computed_blocks(self, seq: Sequence) -> list[int]:
        """The longest run of cached blocks that ``seq`` starts with.

        Its last token is always computed anew, for its logits: at most ``num_tokens - 1`` can hit.
        """
        found: list[int] = []
        if not self.enable_caching:
            return found
        for index in range((seq.num_tokens - 1) // self.block_size):
            block = self.pool.find(seq.block_hash(index))
            if block is None:
                break
            found.append(block)
        return found

    def try_allocate(self, seq: Sequence, num_new_tokens: int) -> bool:
        """Extend a running sequence; False, and nothing changed, if blocks are short."""
        return self._try_extend(seq, seq.num_computed_tokens + num_new_tokens, [])

    def try_admit(self, seq: Sequence, computed_blocks: list[int], num_new_tokens: int) -> bool:
        """Give a waiting sequence its cached blocks and those of its first chunk.

        Refused, with nothing changed, unless all of its tokens so far would fit
        (``scheduler_reserve_full_isl``): later chunks then rarely preempt others.
        """
        if self._num_wanted(seq, seq.num_tokens, computed_blocks) > self.pool.num_free:
            return False
        num_tokens = len(computed_blocks) * self.block_size + num_new_tokens
        return self._try_extend(seq, num_tokens, computed_blocks)

    def cache_full_blocks(self, seq: Sequence, num_tokens: int) -> None:
        """Make the blocks that the first ``num_tokens`` tokens fill findable."""
        num_full = num_tokens // self.block_size
        if not self.enable_caching or num_full <= seq.num_cached_blocks:
            return
        for index in range(seq.num_cached_blocks, num_full):
            self.pool.cache(seq.blocks[index], seq.block_hash(index))
        seq.num_cached_blocks = num_full

    def free(self, seq: Sequence) -> None:
        """Take all blocks back, the tail to be reused first."""
        self.pool.free(reversed(seq.blocks))
        seq.blocks.clear()
        seq.num_cached_blocks = 0

    def _try_extend(self, seq: Sequence, num_tokens: int, computed_blocks: list[int]) -> bool:
        if self._num_wanted(seq, num_tokens, computed_blocks) > self.pool.num_free:
            return False
        self.pool.touch(computed_blocks)
        seq.blocks.extend(computed_blocks)
        seq.num_cached_blocks += len(computed_blocks)
        missing = -(-num_tokens // self.block_size) - len(seq.blocks)
        if missing > 0:
            seq.blocks.extend(self.pool.allocate(missing))
        self.cache_full_blocks(seq, min(num_tokens, seq.num_tokens))
        return True

    def _num_wanted(self, seq: Sequence, num_tokens: int, computed_blocks: list[int]) -> int:
        """Blocks that would leave the free queue: new ones, and cached ones that nobody holds."""
        held = len(seq.blocks) + len(computed_blocks)
        new = max(-(-num_tokens // self.block_size) - held, 0)
        return new + sum(1 for block in computed_blocks if self.pool.ref_counts[block] == 0)
