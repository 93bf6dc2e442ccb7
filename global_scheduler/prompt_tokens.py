"""How many tokens a prompt has: by the model's tokenizer, or estimated and corrected by usage."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import anyio.to_thread
from tokenizers import Tokenizer

INLINE_CHARACTERS = 2_000
"""Longer texts are tokenised in a thread: they take more than a millisecond."""
FIRST_BYTES_PER_TOKEN = 4.0
SMOOTHING = 0.05
MINIMUM_BYTES_PER_TOKEN, MAXIMUM_BYTES_PER_TOKEN = 0.5, 16.0
"""Bounds of a believable ratio, so that one lying usage figure cannot spoil the estimate."""


class PromptTokenCounter(Protocol):
    """Counts prompt tokens before the engine does."""

    async def count(self, model: str, texts: tuple[str, ...]) -> int:
        """The number of tokens of ``texts`` together."""

    def correct(self, model: str, num_bytes: int, num_tokens: int) -> None:
        """Learn that the engine counted ``num_tokens`` for a prompt of ``num_bytes``."""


class TokenizerCounter:
    """Exact, with a Hugging Face ``tokenizer.json``."""

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}")
        self._tokenizer = Tokenizer.from_file(str(file))

    async def count(self, model: str, texts: tuple[str, ...]) -> int:
        """Tokenise; long texts leave the event loop (the library releases the GIL)."""
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return self._count(texts)
        return await anyio.to_thread.run_sync(self._count, texts)

    def correct(self, model: str, num_bytes: int, num_tokens: int) -> None:
        """Nothing to learn."""

    def _count(self, texts: tuple[str, ...]) -> int:
        return sum(len(encoding) for encoding in self._tokenizer.encode_batch_fast(list(texts)))


class EstimatingCounter:
    """Bytes over a ratio of bytes per token that each model's usage figures correct."""

    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}

    async def count(self, model: str, texts: tuple[str, ...]) -> int:
        """At least one token for a prompt that is not empty."""
        num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        ratio = self._bytes_per_token.get(model, FIRST_BYTES_PER_TOKEN)
        return max(1, round(num_bytes / ratio)) if num_bytes else 0

    def correct(self, model: str, num_bytes: int, num_tokens: int) -> None:
        """Move the model's ratio towards what the engine saw."""
        if num_bytes < 1 or num_tokens < 1:
            return
        seen = min(max(num_bytes / num_tokens, MINIMUM_BYTES_PER_TOKEN), MAXIMUM_BYTES_PER_TOKEN)
        ratio = self._bytes_per_token.setdefault(model, seen)
        self._bytes_per_token[model] = ratio + SMOOTHING * (seen - ratio)
