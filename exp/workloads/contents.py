"""What requests ask for: real chats, lengths from a file, or lengths drawn from a range."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import read_lengths
from exp.workloads.sharegpt_texts import first_chats

Item = TypeVar("Item")
SHAREGPT = "sharegpt"


class Content(NamedTuple):
    """One request, but for its time. Either ``prompt`` or ``num_prompt_tokens``."""

    prompt: str | None
    num_prompt_tokens: int | None
    max_tokens: int
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Span:
    """Numbers of tokens from ``low`` to ``high``, both included."""

    low: int
    high: int

    def draw(self, rng: random.Random) -> int:
        """Uniform."""
        return rng.randint(self.low, self.high)


def parse_span(text: str) -> Span:
    """``64`` or ``2000-3500``.

    Raises:
        ValueError: it is neither.
    """
    low, _, high = text.partition("-")
    if not low.isdecimal() or not (high or low).isdecimal():
        raise ValueError(f"{text!r} is no number of tokens such as 64 or 2000-3500")
    span = Span(int(low), int(high or low))
    if not 1 <= span.low <= span.high:
        raise ValueError(f"{text!r} must be 1 or more, the lower bound first")
    return span


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What all requests of a class keep to."""

    output: Span
    exact_lengths: bool
    """Answers are as long as drawn (or as ShareGPT's own), instead of ending by themselves."""
    max_model_len: int
    """Prompt and answer together."""


def contents(source: str, bounds: Bounds, rng: random.Random) -> Iterator[Content]:
    """Endless. ``source`` is ``sharegpt``, a span of prompt tokens, or a CSV file of lengths.

    Raises:
        WorkloadError: the file cannot be used, nothing in it fits into ``max_model_len``, or
            ShareGPT is not installed.
        ValueError: the source is none of the three.
    """
    if source == SHAREGPT:
        return _chats(bounds, rng)
    if source.endswith(".csv"):
        return _rows(Path(source), bounds, rng)
    return _drawn(parse_span(source), bounds, rng)


def _drawn(prompt: Span, bounds: Bounds, rng: random.Random) -> Iterator[Content]:
    if prompt.high + bounds.output.high > bounds.max_model_len:
        raise ValueError(
            f"prompts of {prompt.high} and answers of {bounds.output.high} tokens do not fit into"
            f" {bounds.max_model_len}"
        )
    while True:
        size = prompt.draw(rng)
        yield Content(None, size, bounds.output.draw(rng), bounds.exact_lengths)


def _rows(path: Path, bounds: Bounds, rng: random.Random) -> Iterator[Content]:
    """Lengths of both come from the file; answers have exactly theirs."""
    rows = [
        (row.num_prompt_tokens, row.num_output_tokens)
        for row in read_lengths(path)
        if row.num_prompt_tokens + row.num_output_tokens <= bounds.max_model_len
    ]
    for prompt, output in _shuffled(rows, str(path), bounds, rng):
        yield Content(None, prompt, output, True)


def _chats(bounds: Bounds, rng: random.Random) -> Iterator[Content]:
    """Those that the length estimator was not trained on."""
    most_bytes = bounds.max_model_len - bounds.output.high  # no tokenizer makes more tokens of it
    chats = [
        chat
        for chat in first_chats(tokenizer=None)
        if chat.is_unseen and len(chat.prompt.encode(errors="replace")) <= most_bytes
    ]
    for chat in _shuffled(chats, SHAREGPT, bounds, rng):
        limit = bounds.output.draw(rng)
        if bounds.exact_lengths:
            limit = min(limit, chat.num_output_tokens)
        yield Content(chat.prompt, None, limit, bounds.exact_lengths)


def _shuffled(
    items: Sequence[Item], source: str, bounds: Bounds, rng: random.Random
) -> Iterator[Item]:
    if not items:
        raise TraceError(f"{source}: nothing in it fits into {bounds.max_model_len} tokens")
    return itertools.cycle(rng.sample(items, len(items)))
