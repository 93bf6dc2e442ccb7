"""Mooncake's traces: JSON lines with arrivals, lengths and the hashes of blocks of 512 tokens.

Source: kvcache-ai/Mooncake, ``FAST25-release/traces`` and ``mooncake_trace.jsonl``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from exp.workloads.errors import TraceError
from exp.workloads.lengths_file import Lengths
from exp.workloads.request import BLOCK_TOKENS

HASH_TOKENS = 512
"""What one of the trace's hashes stands for; the last one may stand for fewer."""
BLOCKS_PER_HASH = HASH_TOKENS // BLOCK_TOKENS
_PARTS = range(BLOCKS_PER_HASH)

Count = Annotated[int, msgspec.Meta(ge=0)]


class _Line(msgspec.Struct):
    timestamp: Annotated[float, msgspec.Meta(ge=0)]
    """Milliseconds from the start of the trace."""
    input_length: Count
    output_length: Count
    hash_ids: list[Annotated[int, msgspec.Meta(ge=0, lt=2**50)]]


def block_hashes(row: Lengths) -> tuple[int, ...]:
    """Of the prompt's full blocks of ``BLOCK_TOKENS``.

    A hash of the trace stands for all before it too, so its parts need only be numbered.
    """
    num_blocks = row.num_prompt_tokens // BLOCK_TOKENS
    parts = (one * BLOCKS_PER_HASH + part for one in row.hash_ids for part in _PARTS)
    return tuple(itertools.islice(parts, num_blocks))


def read_mooncake(path: Path) -> Iterator[Lengths]:
    """The requests, read as a stream; those without a prompt or an answer are left out.

    Raises:
        TraceError: the file cannot be read, or a line is none of the trace's; names line and key.
    """
    decoder = msgspec.json.Decoder(_Line)
    try:
        with path.open("rb") as file:
            for number, text in enumerate(file, start=1):
                if text.strip() and (read := _read(decoder, text, f"{path}, line {number}")):
                    yield read
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error


def _read(decoder: msgspec.json.Decoder[_Line], text: bytes, where: str) -> Lengths | None:
    try:
        line = decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise TraceError(f"{where}: {error}") from error
    if not line.input_length or not line.output_length:
        return None
    return Lengths(
        line.timestamp / 1e3, line.input_length, line.output_length, tuple(line.hash_ids)
    )
