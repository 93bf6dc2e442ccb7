"""Counts the tokens of texts."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer


class TokenCounter:
    """Counts tokens, without the marks that a chat template adds."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def count(self, texts: Sequence[str]) -> list[int]:
        """The number of tokens of each text."""
        # Lone surrogates have no UTF-8 form and break tokenizers.
        readable = [text.encode(errors="replace").decode() for text in texts]
        encodings = self._tokenizer.encode_batch_fast(readable, add_special_tokens=False)
        return [len(encoding) for encoding in encodings]
