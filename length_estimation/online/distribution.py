"""From quantiles of log tokens to the estimate that is handed out. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from length_estimation.online.correction import Floats
from length_estimation.online.session import RawEstimate
from wire.length import LengthEstimate
from wire.prediction import MAX_TOKENS


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
        bounded = np.clip(log_quantiles, 0.0, math.log(most))
        tokens = np.exp(bounded)
        return LengthEstimate(
            mean_tokens=min(max(self._mean(raw, bounded, tokens), float(tokens[0])), float(most)),
            quantiles=dict(zip(self._keys, tokens.tolist(), strict=True)),
            source=source,
        )

    def _mean(self, raw: RawEstimate, bounded: Floats, tokens: Floats) -> float:
        """Of the quantiles, times what the model's own mean has beyond its quantiles: the tails.

        Tails shrink with the distribution's width, in logarithms as all is.
        """
        raw_quantiles = np.clip(raw.log_quantiles, 0.0, math.log(MAX_TOKENS))
        log_tails = raw.log_mean - math.log(self._weights @ np.exp(raw_quantiles))
        raw_width = max(raw_quantiles[-1] - raw_quantiles[0], 1e-3)
        share = min((bounded[-1] - bounded[0]) / raw_width, 1.0)
        return float(self._weights @ tokens) * math.exp(min(log_tails * share, 1.0))
