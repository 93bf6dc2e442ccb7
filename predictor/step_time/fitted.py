"""Step times as a linear function of a batch's sums, with a hinge on the number of tokens.

The features are those of ``wire.snapshot.StepRecord``. The hinge adds time for each token above a
knot: weights are read once for a few tokens, whereas many are bound by arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from predictor.step_time.base import BatchShape, StepTimeModel, batch_shape
from predictor.step_time.least_squares import Floats, solve_nonnegative
from predictor.step_time.table import (
    DECODE_TOKENS,
    HAS_PREFILL,
    KV_TOKENS,
    PREFILL_ATTENTION,
    PREFILL_SEQS,
    PREFILL_TOKENS,
    StepTable,
    step_table,
)
from wire.model_config import ModelConfig

FEATURES = (
    "step",
    "step_with_prefill",
    "prefill_tokens",
    "decode_tokens",
    "prefill_seqs",
    "kv_tokens",
    "prefill_attention",
    "tokens_above_knot",
)
"""What the coefficients are seconds of."""
_PLACES = (HAS_PREFILL, PREFILL_TOKENS, DECODE_TOKENS, PREFILL_SEQS, KV_TOKENS, PREFILL_ATTENTION)
"""In a table's weights, of all but the first and the last feature."""
_KNOTS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


class BatchSums(Protocol):
    """What a ``BatchShape`` and a ``wire.snapshot.StepRecord`` have in common."""

    @property
    def num_prefill_tokens(self) -> int: ...
    @property
    def num_decode_tokens(self) -> int: ...
    @property
    def num_prefill_seqs(self) -> int: ...
    @property
    def num_kv_tokens(self) -> int: ...
    @property
    def prefill_attention(self) -> float: ...


def features(sums: BatchSums, knot: int) -> Floats:
    """The features of a batch, (8,)."""
    tokens = sums.num_prefill_tokens + sums.num_decode_tokens
    values: Floats = np.array(
        [
            1.0,
            float(sums.num_prefill_seqs > 0),
            sums.num_prefill_tokens,
            sums.num_decode_tokens,
            sums.num_prefill_seqs,
            sums.num_kv_tokens,
            sums.prefill_attention,
            max(0, tokens - knot),
        ],
        dtype=np.float64,
    )
    return values


@dataclass(frozen=True, slots=True)
class FittedStepTime:
    """Seconds per unit of each of ``FEATURES``, none of them negative."""

    knot: int
    coefficients: tuple[float, ...]

    def step_s(self, shape: BatchShape) -> float:
        """Seconds of one step; an empty batch takes none."""
        if shape.num_tokens == 0:
            return 0.0
        return float(features(shape, self.knot) @ np.array(self.coefficients))

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``: intercept and hinge by tokens, the others as weights."""
        step_s, *weights, above_s = self.coefficients
        tokens = np.arange(max_tokens + 1.0)
        token_s = step_s + above_s * np.maximum(0.0, tokens - self.knot)
        token_s[0] = 0.0
        return step_table(token_s, max_seqs, weights=dict(zip(_PLACES, weights, strict=True)))


@dataclass(frozen=True, slots=True)
class Design:
    """The normal equations of an average batch, of many shapes and times given by a model.

    Errors count relative to a batch's time, so that a short decode step weighs as much as a long
    prefill.
    """

    knot: int
    gram: Floats
    moments: Floats

    def fit(self) -> FittedStepTime:
        """The linear model nearest to the times."""
        return FittedStepTime(self.knot, tuple(solve_nonnegative(self.gram, self.moments).tolist()))


def design_of(prior: StepTimeModel, model: ModelConfig) -> Design:
    """Batches that an engine of this model may run, and the knot that suits their times best."""
    shapes = _shapes(model)
    seconds = np.array([prior.step_s(shape) for shape in shapes])

    def design(knot: int) -> Design:
        rows = np.array([features(shape, knot) for shape in shapes]) / seconds[:, None]
        return Design(knot, rows.T @ rows / len(rows), rows.mean(axis=0))

    return min((design(knot) for knot in _KNOTS), key=_misfit)


def _misfit(design: Design) -> float:
    """The mean squared relative error of the best fit, less a constant."""
    x = solve_nonnegative(design.gram, design.moments)
    return float(x @ design.gram @ x - 2 * design.moments @ x)


def _shapes(model: ModelConfig) -> list[BatchShape]:
    """Batches of decodes, of one or of four equal prefills, and of both, at several contexts."""
    sizes = _powers_of_two(8, model.chunk_size)
    prefills = [[], *([n] for n in sizes), *([max(1, n // 4)] * 4 for n in sizes)]
    decodes = [0, *_powers_of_two(1, model.max_batch_size)]
    return [
        batch_shape([(n, context) for n in chunks], [context] * num_decodes)
        for context in (16, 256, 1024, 4096)
        for chunks in prefills
        for num_decodes in decodes
        if chunks or num_decodes
    ]


def _powers_of_two(least: int, most: int) -> list[int]:
    return [*(2**power for power in range(30) if least <= 2**power < most), most]
