"""From a question to the numbers a model reads; the same code for training and for serving.

Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from wire.length import LengthQuestion

NUMBERS = (
    "log_prompt_tokens",
    "log_characters",
    "log_lines",
    "share_not_ascii",
    "log_earlier_answers",
    "log_mean_earlier_characters",
    "log_last_earlier_characters",
    "log_max_tokens",
    "has_max_tokens",
)
"""What a model reads besides the text, in this order."""
UNKNOWN_MODEL = 0
"""The id of a served model that training did not see."""
CHARACTERS_PER_TOKEN = 16
"""Text beyond this many characters for each token of the window is cut off before tokenising."""
SAMPLED_CHARACTERS = 4_000
"""Lines and foreign characters are counted in so many characters at most."""


class InputConfig(msgspec.Struct, kw_only=True, frozen=True):
    """How text becomes tokens; saved with each model."""

    window: int
    """Tokens a model reads of one request, marks included."""
    tail: int
    """Of those, tokens kept from the end of a text that is too long."""
    context_tokens: int
    """Most tokens of context, which get what room the text leaves."""
    start_id: int
    separator_id: int
    pad_id: int
    models: list[str]
    """Names of served models that training saw; ids count from 1."""


class Encoded(NamedTuple):
    """One question as numbers."""

    token_ids: list[int]
    numbers: list[float]
    model_id: int


class Batch(NamedTuple):
    """Questions side by side, padded to the longest; the field names are the model's inputs."""

    input_ids: NDArray[np.int64]
    """(questions, tokens)"""
    attention_mask: NDArray[np.int64]
    """(questions, tokens), 1 where a token is"""
    numbers: NDArray[np.float32]
    """(questions, len(NUMBERS))"""
    model_ids: NDArray[np.int64]
    """(questions,)"""


class InputMaker:
    """Makes a model's inputs.

    The tokenizer must come without padding and truncation of its own.
    """

    def __init__(self, tokenizer: Tokenizer, config: InputConfig) -> None:
        self.config = config
        self._tokenizer = tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._model_ids = {name: index for index, name in enumerate(config.models, start=1)}

    def encode(self, questions: Sequence[LengthQuestion]) -> list[Encoded]:
        """Tokenise; takes time in proportion to the window, however long a text is."""
        most = self.config.window * CHARACTERS_PER_TOKEN
        texts = [_readable(_ends(question.text, most)) for question in questions]
        contexts = [_readable(question.context[:most]) for question in questions]
        encodings = self._tokenizer.encode_batch_fast([*texts, *contexts], add_special_tokens=False)
        pairs = zip(encodings[: len(texts)], encodings[len(texts) :], strict=True)
        return [
            Encoded(
                self._join(text.ids, context.ids),
                _numbers(question),
                self._model_ids.get(question.model, UNKNOWN_MODEL),
            )
            for question, (text, context) in zip(questions, pairs, strict=True)
        ]

    def collate(self, encoded: Sequence[Encoded]) -> Batch:
        """Put questions side by side."""
        num_tokens = max(len(one.token_ids) for one in encoded)
        shape = (len(encoded), num_tokens)
        input_ids: NDArray[np.int64] = np.full(shape, self.config.pad_id, dtype=np.int64)
        mask = np.zeros_like(input_ids)
        for row, one in enumerate(encoded):
            input_ids[row, : len(one.token_ids)] = one.token_ids
            mask[row, : len(one.token_ids)] = 1
        return Batch(
            input_ids,
            mask,
            np.array([one.numbers for one in encoded], dtype=np.float32),
            np.array([one.model_id for one in encoded], dtype=np.int64),
        )

    def _join(self, text: list[int], context: list[int]) -> list[int]:
        """Start, text (head and tail if too long), separator; then context and another one."""
        config = self.config
        room = config.window - 2
        if len(text) > room:
            text = text[: room - config.tail] + text[len(text) - config.tail :]
        token_ids = [config.start_id, *text, config.separator_id]
        room = min(config.context_tokens, config.window - len(token_ids) - 1)
        if context and room > 0:
            token_ids += [*context[:room], config.separator_id]
        return token_ids


def _ends(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} {text[-(most // 2) :]}"


def _readable(text: str) -> str:
    """Lone surrogates, which JSON can smuggle in, have no UTF-8 form and break tokenizers."""
    return text.encode(errors="replace").decode()


def _numbers(question: LengthQuestion) -> list[float]:
    sample = question.text[:SAMPLED_CHARACTERS]
    earlier = question.earlier_answer_characters
    return [
        math.log1p(max(question.num_prompt_tokens, 0)),
        math.log1p(len(question.text)),
        math.log1p(sample.count("\n")),
        0.0 if sample.isascii() else sum(ord(one) > 127 for one in sample) / len(sample),
        math.log1p(len(earlier)),
        math.log1p(sum(earlier) / len(earlier)) if earlier else 0.0,
        math.log1p(earlier[-1]) if earlier else 0.0,
        math.log1p(question.max_tokens) if question.max_tokens else 0.0,
        1.0 if question.max_tokens else 0.0,
    ]
