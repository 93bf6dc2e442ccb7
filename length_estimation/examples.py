"""An example: a request as it was known before it was answered, and how long the answer got.

Data sets on disk (Hugging Face ``datasets``, splits ``train``, ``validation``, ``test``) have one
column for each field of ``Example``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from wire.length import LengthQuestion


class Example(msgspec.Struct, kw_only=True, frozen=True):
    """One answered request."""

    conversation: str
    """Examples of one conversation are never in two splits."""
    turn: int
    """0 for the first answer of a conversation."""
    text: str
    context: str
    num_prompt_tokens: int
    earlier_answer_characters: list[int]
    max_tokens: int | None
    model: str
    num_output_tokens: int
    """At least 1."""

    def question(self) -> LengthQuestion:
        """What an estimator gets to see."""
        return LengthQuestion(
            text=self.text,
            context=self.context,
            num_prompt_tokens=self.num_prompt_tokens,
            earlier_answer_characters=self.earlier_answer_characters,
            max_tokens=self.max_tokens,
            model=self.model,
        )


def prompts_sha256(texts: Iterable[str]) -> str:
    """One digest of a set of prompts, whatever their order: two equal ones are the same split."""
    digests = sorted({hashlib.sha256(text.encode(errors="replace")).digest() for text in texts})
    return hashlib.sha256(b"".join(digests)).hexdigest()
