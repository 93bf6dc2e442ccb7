"""How many tokens a prompt has: by the model's tokenizer, or estimated and corrected by usage."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import anyio.to_thread
from tokenizers import Tokenizer

from global_scheduler.bodies import GenerationRequest

INLINE_CHARACTERS = 2_000
"""Longer texts are tokenised in a thread: they take more than a millisecond."""
FIRST_BYTES_PER_TOKEN = 4.0
SMOOTHING = 0.05
TOKENS_PER_MESSAGE = 4
"""What a chat template adds to each message, such as a role, a line break and two marks."""
MAXIMUM_TEMPLATE_TOKENS = 2_000
MINIMUM_BYTES_PER_TOKEN, MAXIMUM_BYTES_PER_TOKEN = 0.5, 16.0
"""Bounds of a believable ratio, so that one lying usage figure cannot spoil the estimate."""


class PromptTokenCounter(Protocol):
    """Counts prompt tokens before the engine does."""

    async def count(self, model: str, request: GenerationRequest) -> int:
        """The number of prompt tokens, at least 1."""

    def correct(self, model: str, request: GenerationRequest, num_tokens: int) -> None:
        """Learn that the engine counted ``num_tokens``."""


class TokenizerCounter:
    """Exact for texts, with a Hugging Face ``tokenizer.json``.

    What a chat template adds around the messages, such as a system prompt, is learnt from the
    engines' usage figures.
    """

    def __init__(self, path: Path) -> None:
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer at {file}")
        self._tokenizer = Tokenizer.from_file(str(file))
        self._template_tokens: dict[str, float] = {}

    async def count(self, model: str, request: GenerationRequest) -> int:
        """Tokenise; long texts leave the event loop (the library releases the GIL)."""
        if sum(map(len, request.texts)) <= INLINE_CHARACTERS:
            num_tokens = self._count(request)
        else:
            num_tokens = await anyio.to_thread.run_sync(self._count, request)
        if request.num_messages:
            num_tokens += round(self._template_tokens.get(model, 0.0))
        return max(1, num_tokens)

    def correct(self, model: str, request: GenerationRequest, num_tokens: int) -> None:
        """Learn the template from short chats, whose tokens are counted again at little cost."""
        if not request.num_messages or sum(map(len, request.texts)) > INLINE_CHARACTERS:
            return
        seen = min(max(num_tokens - self._count(request), 0), MAXIMUM_TEMPLATE_TOKENS)
        known = self._template_tokens.setdefault(model, seen)
        self._template_tokens[model] = known + SMOOTHING * (seen - known)

    def _count(self, request: GenerationRequest) -> int:
        encodings = self._tokenizer.encode_batch_fast(list(request.texts))
        return sum(map(len, encodings)) + _outside_texts(request)


class EstimatingCounter:
    """Bytes over a ratio of bytes per token that each model's usage figures correct."""

    def __init__(self) -> None:
        self._bytes_per_token: dict[str, float] = {}

    async def count(self, model: str, request: GenerationRequest) -> int:
        """See ``PromptTokenCounter``."""
        ratio = self._bytes_per_token.get(model, FIRST_BYTES_PER_TOKEN)
        return max(1, round(_num_bytes(request) / ratio) + _outside_texts(request))

    def correct(self, model: str, request: GenerationRequest, num_tokens: int) -> None:
        """Move the model's ratio towards what the engine saw."""
        num_bytes, num_tokens = _num_bytes(request), num_tokens - _outside_texts(request)
        if num_bytes < 1 or num_tokens < 1:
            return
        seen = min(max(num_bytes / num_tokens, MINIMUM_BYTES_PER_TOKEN), MAXIMUM_BYTES_PER_TOKEN)
        ratio = self._bytes_per_token.setdefault(model, seen)
        self._bytes_per_token[model] = ratio + SMOOTHING * (seen - ratio)


def _num_bytes(request: GenerationRequest) -> int:
    return sum(len(text.encode(errors="replace")) for text in request.texts)


def _outside_texts(request: GenerationRequest) -> int:
    return request.num_given_tokens + TOKENS_PER_MESSAGE * request.num_messages
