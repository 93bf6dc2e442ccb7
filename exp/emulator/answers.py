"""Canned answers whose length depends on the prompt alone.

The same prompt gets the same answer from every unit with the same seed, so that it can be known
afterwards what another unit would have done.
"""

from __future__ import annotations

import hashlib
import math
import random
from dataclasses import dataclass

MEDIAN_TOKENS = 262.0
P90_TOKENS = 623.0
"""First answers in ShareGPT, in tokens of SmolLM2."""

SIGMA = math.log(P90_TOKENS / MEDIAN_TOKENS) / 1.2815515655446004

WORDS = (
    *("the", "ship", "sailed", "north", "while", "stars", "turned", "above", "its", "mast"),
    *("and", "every", "sailor", "took", "a", "bearing", "from", "one", "bright", "point"),
    *("they", "wrote", "down", "what", "each", "hour", "would", "bring", "then", "compared"),
    *("it", "with", "wind", "tide", "until", "harbour", "lights", "came", "near", "again"),
    "so",
)
"""A prime number of words, one token each."""


def output_length(tokens: bytes, seed: int) -> int:
    """Output tokens of an unhindered answer to this prompt: log-normal as in ShareGPT."""
    rng = random.Random(_stable_hash(tokens, seed))
    return max(1, round(rng.lognormvariate(math.log(MEDIAN_TOKENS), SIGMA)))


@dataclass(frozen=True, slots=True)
class Answer:
    """The text of an answer, token by token. Its last token is a stop token without text."""

    offset: int
    length: int
    """Tokens at which the answer ends by itself."""
    stop_string: str | None = None
    text_end: int | None = None
    """Characters before the stop string, which takes the stop token's place."""

    def delta(self, index: int) -> str:
        """The text of one token."""
        word = self._word(index)
        if self.text_end is None:
            return word
        start = sum(len(self._word(i)) for i in range(index))
        return word[: max(self.text_end - start, 0)]

    def text(self, num_tokens: int) -> str:
        """The text of the first tokens."""
        return "".join(self._word(i) for i in range(num_tokens))[: self.text_end]

    def _word(self, index: int) -> str:
        if index == self.length - 1 and self.stop_string is None:
            return ""
        return _word(self.offset, index)


def make_answer(
    tokens: bytes,
    seed: int,
    limit: int,
    ignore_eos: bool,
    stop: list[str],
    own_length: int | None = None,
) -> Answer:
    """The answer to a prompt; no more than ``limit`` of its tokens will be asked for.

    Unhindered it has ``own_length``, or a length that is drawn from the prompt.
    """
    offset = _stable_hash(tokens, seed) % len(WORDS)
    length = limit + 1 if ignore_eos else own_length or output_length(tokens, seed)
    if not stop:
        return Answer(offset, length)
    text = ""
    for index in range(min(length - 1, limit)):
        text += _word(offset, index)
        found = [(text.index(string), string) for string in stop if string in text]
        if found:
            text_end, string = min(found)
            return Answer(offset, index + 1, string, text_end)
    return Answer(offset, length)


def _word(offset: int, index: int) -> str:
    word = WORDS[(offset + index) % len(WORDS)]
    return word if index == 0 else f" {word}"


def _stable_hash(tokens: bytes, seed: int) -> int:
    digest = hashlib.blake2b(tokens, digest_size=8, salt=seed.to_bytes(8, "little", signed=True))
    return int.from_bytes(digest.digest(), "little")
