"""Examples as the rows a trainer feeds to the model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from length_estimation.examples import Example
from length_estimation.inputs import Encoded, InputMaker

UNCUT = 1e9
"""Stands for the logarithm of ``max_tokens`` where there is none."""
ENCODED_AT_ONCE = 1_000


class Row(NamedTuple):
    """One example, encoded."""

    encoded: Encoded
    log_tokens: float
    log_max_tokens: float


class Rows(torch.utils.data.Dataset):
    """Encoded examples, for a ``transformers.Trainer``."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, object]:
        """``input_ids`` is what the trainer groups rows of similar length by."""
        row = self.rows[index]
        return {"input_ids": row.encoded.token_ids, "row": row}

    def numbers(self) -> NDArray[np.float32]:
        """(rows, len(NUMBERS))"""
        numbers: NDArray[np.float32] = np.array(
            [row.encoded.numbers for row in self.rows], dtype=np.float32
        )
        return numbers


def encode(maker: InputMaker, examples: Sequence[Example]) -> Rows:
    """Tokenise all examples."""
    rows: list[Row] = []
    for part in _parts(examples):
        encoded = maker.encode([example.question() for example in part])
        rows += map(_row, part, encoded)
    return Rows(rows)


def collate(maker: InputMaker, items: Sequence[dict[str, object]]) -> dict[str, Tensor]:
    """Rows side by side: what the model's ``forward`` takes."""
    rows = [item["row"] for item in items]
    batch = maker.collate([row.encoded for row in rows])  # type: ignore[attr-defined]
    tensors = {name: torch.from_numpy(array) for name, array in batch._asdict().items()}
    for name in ("log_tokens", "log_max_tokens"):
        tensors[name] = torch.tensor([getattr(row, name) for row in rows], dtype=torch.float32)
    return tensors


def _row(example: Example, encoded: Encoded) -> Row:
    cut = math.log(example.max_tokens) if example.max_tokens else UNCUT
    return Row(encoded, math.log(example.num_output_tokens), cut)


def _parts(examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
    for start in range(0, len(examples), ENCODED_AT_ONCE):
        yield examples[start : start + ENCODED_AT_ONCE]
