"""Tokens of texts: a tokenizer's, or four bytes each, close to what tokenizers do with English."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from exp.emulator.tokens import TOKEN_BYTES, Encoder, EstimatingEncoder, TokenizerEncoder
from exp.workloads.errors import WorkloadError
from length_estimation.token_counter import TokenCounter


def count_tokens(texts: Sequence[str], tokenizer: str | None) -> list[int]:
    """Of each text, 1 at least.

    Args:
        tokenizer: a tokenizer.json or its folder; without it tokens are estimated.

    Raises:
        WorkloadError: there is no such tokenizer.
    """
    if tokenizer is None:
        return [max(1, -(-len(readable(text).encode()) // TOKEN_BYTES)) for text in texts]
    counter = TokenCounter(Tokenizer.from_file(str(_tokenizer_file(tokenizer))))
    return [max(1, count) for count in counter.count(texts)]


def encoder_of(tokenizer: str | None) -> Encoder:
    """The tokens themselves, or bytes that stand for them.

    Raises:
        WorkloadError: there is no such tokenizer.
    """
    return (
        EstimatingEncoder() if tokenizer is None else TokenizerEncoder(_tokenizer_file(tokenizer))
    )


def readable(text: str) -> str:
    """Without lone surrogates, which have no UTF-8 form."""
    return text.encode(errors="replace").decode()


def _tokenizer_file(tokenizer: str) -> Path:
    path = Path(tokenizer)
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise WorkloadError(f"no tokenizer at {tokenizer}")
    return file
