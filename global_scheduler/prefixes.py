"""Which unit's prefix cache probably holds which prompts' beginnings. Pure.

A prompt is a chain of hashes over blocks of its text, each hash standing for everything up to the
end of its block. A unit is taken to hold what it was sent, as far as its KV cache reaches, the
oldest forgotten first. This is an approximation: answers are not seen here, neither the room that
they take in an engine's cache nor that the next turn finds them there; and tokens are told from
characters by the prompt's mean.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Hashable, Sequence

import msgspec

from global_scheduler.bodies import GenerationRequest

CHARACTERS_PER_TOKEN = 4
"""About as in English; a token id stands for as many."""
KV_BLOCK_TOKENS = 16
"""vLLM's default; hits are whole blocks."""
FINE_BLOCK = KV_BLOCK_TOKENS * CHARACTERS_PER_TOKEN
COARSE_BLOCK = 16 * FINE_BLOCK
FINE_UP_TO = 512 * FINE_BLOCK
"""Characters up to which blocks are fine, so that long prompts cost little more than short ones;"""
READ_UP_TO = FINE_UP_TO + 1_000 * COARSE_BLOCK
"""and beyond which a prompt is not looked at: about a million characters."""
FIRST_CAPACITY_BLOCKS = 16_384
MOST_CAPACITY_BLOCKS = 65_536
"""Bounds of what is kept for a unit, in fine blocks: about 80 bytes each, 5 MB at most."""


class Prefix(msgspec.Struct, frozen=True):
    """A prompt as the index sees it."""

    hashes: tuple[int, ...]
    """One for each block that is full, first block first."""
    num_characters: int
    """Of the whole prompt."""
    opening: str
    """A digest of the prompt's beginning (see ``bodies``), the same in every gateway and turn;
    empty if there is no prompt to speak of."""


NO_PREFIX = Prefix((), 0, "")
"""Of what cannot be told, such as several prompts in one request."""


def prefix_of(model: str, request: GenerationRequest) -> Prefix:
    """The prefix of a request's first prompt."""
    prompt = request.prompt
    if not prompt:
        return NO_PREFIX
    scale = 1 if isinstance(prompt, str) else CHARACTERS_PER_TOKEN
    beginning = f"{model} {request.beginning}".encode(errors="replace")
    opening = hashlib.blake2b(beginning, digest_size=8).hexdigest()
    return Prefix(_chain(model, prompt, scale), len(prompt) * scale, opening)


class HeldPrefixes:
    """What one unit is taken to hold: blocks of prompts, least recently used first.

    A prompt's blocks are touched last block first, so a block is never older than those that follow
    it: tails are forgotten before what they follow, and what is held of a prompt is a prefix.
    """

    def __init__(self) -> None:
        self._sizes: OrderedDict[int, int] = OrderedDict()
        """In fine blocks, by hash."""
        self._num_fine_blocks = 0
        self._capacity = FIRST_CAPACITY_BLOCKS

    def __len__(self) -> int:
        """Hashes kept."""
        return len(self._sizes)

    def num_cached_tokens(self, prefix: Prefix, num_prompt_tokens: int) -> int:
        """Prompt tokens that are probably held: whole KV blocks, and never the whole prompt."""
        sizes = self._sizes
        if not prefix.hashes or prefix.hashes[0] not in sizes:
            return 0
        num_held = bisect_left(prefix.hashes, True, key=lambda block: block not in sizes)
        tokens = _end_of(num_held) * num_prompt_tokens // prefix.num_characters
        tokens = min(tokens, num_prompt_tokens - 1)
        return tokens - tokens % KV_BLOCK_TOKENS

    def sent(self, prefix: Prefix) -> None:
        """The unit was sent this prompt and has it from now on."""
        sizes, num_fine = self._sizes, FINE_UP_TO // FINE_BLOCK
        for index in range(len(prefix.hashes) - 1, -1, -1):
            block = prefix.hashes[index]
            if block in sizes:
                sizes.move_to_end(block)
            else:
                sizes[block] = size = 1 if index < num_fine else COARSE_BLOCK // FINE_BLOCK
                self._num_fine_blocks += size
        self._evict()

    def resize(self, num_blocks: int) -> None:
        """The unit's cache has so many blocks of ``KV_BLOCK_TOKENS`` tokens, and holds no more."""
        self._capacity = min(num_blocks, MOST_CAPACITY_BLOCKS)
        self._evict()

    def forget(self) -> None:
        """The unit is away: when it comes back, its cache may be empty."""
        self._sizes.clear()
        self._num_fine_blocks = 0

    def _evict(self) -> None:
        while self._num_fine_blocks > self._capacity:
            self._num_fine_blocks -= self._sizes.popitem(last=False)[1]


def _chain(model: str, prompt: Sequence[Hashable], scale: int) -> tuple[int, ...]:
    """The hashes of the full blocks of a prompt whose items stand for ``scale`` characters each."""
    parent = hash(model)
    fine, coarse, turn = FINE_BLOCK // scale, COARSE_BLOCK // scale, FINE_UP_TO // scale
    end = min(len(prompt), READ_UP_TO // scale)
    hashes = []
    for start in range(0, min(end, turn) - fine + 1, fine):
        hashes.append(parent := hash((parent, prompt[start : start + fine])))
    for start in range(turn, end - coarse + 1, coarse):
        hashes.append(parent := hash((parent, prompt[start : start + coarse])))
    return tuple(hashes)


def _end_of(num_blocks: int) -> int:
    """Characters up to the end of so many blocks."""
    num_fine = FINE_UP_TO // FINE_BLOCK
    return min(num_blocks, num_fine) * FINE_BLOCK + max(0, num_blocks - num_fine) * COARSE_BLOCK
