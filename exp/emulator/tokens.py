"""Prompts as tokens: counting them and hashing their blocks.

Every token is four bytes here: an id of a real tokenizer, or four bytes of the text where none is
at hand (close to what tokenizers do with English). So prompts with the same beginning share blocks.
"""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

TOKEN_BYTES = 4


class Encoder(Protocol):
    """Turns text into tokens."""

    def encode(self, text: str) -> bytes:
        """The tokens of ``text``, ``TOKEN_BYTES`` each; the last one may be shorter."""


class EstimatingEncoder:
    """Takes each four bytes of the text for a token."""

    def encode(self, text: str) -> bytes:
        """The UTF-8 bytes themselves."""
        return text.encode()


class TokenizerEncoder:
    """Uses a model's tokenizer."""

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        self._tokenizer = Tokenizer.from_file(str(file))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def encode(self, text: str) -> bytes:
        """The ids, 32 bits each."""
        return pack_ids(self._tokenizer.encode(text).ids)


def pack_ids(token_ids: list[int]) -> bytes:
    """Token ids as bytes.

    Raises:
        OverflowError: an id is negative or does not fit into 32 bits.
    """
    return array("I", token_ids).tobytes()


def count_tokens(tokens: bytes) -> int:
    """How many tokens these bytes are; an empty prompt is one (vLLM puts a start token)."""
    return max(-(-len(tokens) // TOKEN_BYTES), 1)


def hash_blocks(tokens: bytes, block_size: int) -> tuple[bytes, ...]:
    """The chained hash of each full block: equal only if all tokens up to its end are."""
    width = block_size * TOKEN_BYTES
    hashes = []
    parent = b""
    for start in range(0, len(tokens) - width + 1, width):
        parent = hashlib.blake2b(parent + tokens[start : start + width], digest_size=8).digest()
        hashes.append(parent)
    return tuple(hashes)
