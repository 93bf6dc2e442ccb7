"""What a sidecar believes of the requests that its gateway has sent, as arrays."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from exp.twin.kernel.layout import NONE
from predictor.simulator.kernel.layout import Floats, Ints

# Columns of `facts`.
INDEX = 0
PROMPT = 1
MAX_TOKENS = 2
"""NONE where the request itself sets no limit."""
PRIORITY = 3
CACHED_TOKENS = 4
NUM_POINTS = 5
HAS_FIRST_TOKEN = 6
MATCHED = 7
"""1 while the population is built, if the engine knows the request."""
NUM_FACTS = 8

# Columns of `numbers`.
EXPECTED_TOKENS = 0
SENT_S = 1
FIRST_TOKEN_S = 2
"""NaN before it."""
TTFT_GOAL_S = 3
"""Infinite where there is no goal."""
TPOT_GOAL_S = 4
NUM_NUMBERS = 5


class Beliefs(NamedTuple):
    """A row for each request; ``rows`` grow in Python."""

    row_of: Ints
    """By the request's index, or NONE."""
    order: Ints
    """Rows in use in the order of sending, then the free ones."""
    facts: Ints
    numbers: Floats
    points: Floats
    """[row, point]: probability and tokens."""


def make_beliefs(num_rows: int = 64, num_points: int = 16, num_indices: int = 1024) -> Beliefs:
    """About nobody."""
    return Beliefs(
        row_of=np.full(num_indices, NONE, dtype=np.int64),
        order=np.arange(num_rows),
        facts=np.zeros((num_rows, NUM_FACTS), dtype=np.int64),
        numbers=np.zeros((num_rows, NUM_NUMBERS)),
        points=np.zeros((num_rows, num_points, 2)),
    )


def enlarged(beliefs: Beliefs, num_rows: int, num_points: int, num_indices: int) -> Beliefs:
    """With room for at least so much, twice what there was where that was too little."""
    wanted = (num_rows, num_points, num_indices)
    sizes = (len(beliefs.order), beliefs.points.shape[1], len(beliefs.row_of))
    larger = make_beliefs(
        *(size if size >= want else 2 * want for size, want in zip(sizes, wanted, strict=True))
    )
    for name, array in beliefs._asdict().items():
        getattr(larger, name)[tuple(map(slice, array.shape))] = array
    return larger
