"""From quantiles of log tokens to the estimate that is handed out. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from length_estimation.online.correction import Floats
from length_estimation.online.session import RawEstimate
from wire.length import LengthEstimate
from wire.prediction import MAX_TOKENS

LARGEST_LOG = math.log(MAX_TOKENS) + 1
LARGEST_LOG_TAILS = 1.0
"""A mean beyond e times that of its quantiles is no tail but nonsense."""


class EstimateMaker:
    """Makes estimates of quantiles at fixed levels."""

    def __init__(self, levels: Sequence[float]) -> None:
        self._keys = [f"{level:g}" for level in levels]
        edges = np.array([0.0, *(np.array(levels[1:]) + levels[:-1]) / 2, 1.0])
        self._weights: Floats = np.diff(edges)
        """The share of the distribution that each quantile stands for."""

    def make(
        self, raw: RawEstimate, log_quantiles: Floats, max_tokens: int | None, source: str
    ) -> LengthEstimate:
        """``log_quantiles`` are the corrected ones; all stays within 1 and ``max_tokens``."""
        most = MAX_TOKENS if max_tokens is None else min(max(max_tokens, 1), MAX_TOKENS)
        tokens = _bounded(log_quantiles, most)
        return LengthEstimate(
            mean_tokens=min(max(self._mean(raw, tokens), 1.0), float(most)),
            quantiles=dict(zip(self._keys, tokens.tolist(), strict=True)),
            source=source,
        )

    def _mean(self, raw: RawEstimate, tokens: Floats) -> float:
        """Of the quantiles, times what the model's own mean has beyond its quantiles: the tails.

        Tails shrink with the distribution's width, in logarithms as all is.
        """
        raw_tokens = _bounded(raw.log_quantiles, MAX_TOKENS)
        log_tails = min(raw.log_mean - math.log(self._weights @ raw_tokens), LARGEST_LOG_TAILS)
        raw_width = math.log(raw_tokens[-1] / raw_tokens[0])
        width = math.log(tokens[-1] / tokens[0])
        share = min(width / raw_width, 1.0) if raw_width > 0 else 1.0
        return float(self._weights @ tokens) * math.exp(log_tails * share)


def _bounded(log_quantiles: Floats, most: int) -> Floats:
    tokens: Floats = np.clip(np.exp(np.minimum(log_quantiles, LARGEST_LOG)), 1.0, most)
    return tokens
