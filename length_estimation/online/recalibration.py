"""Recalibration by served model: recent outcomes teach how to correct what the model predicts.

Pure: no clock, no I/O. Windows slide, because a model's verbosity changes with its version, its
system prompts and its traffic.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np

from length_estimation.online.correction import Bools, Correction, Floats, Observations, fit
from length_estimation.online.figures import RecalibrationFigures

WINDOW = 256
"""Observations of one served model that are kept."""
MAX_MODELS = 64
"""Served models that are kept; the one not heard of for the longest gives way."""
REFIT_SHARE = 16
"""Fitted again, when next needed, after one new observation for so many in the window."""


class Recalibration:
    """Of one served model."""

    def __init__(self, levels: Floats, window: int = WINDOW) -> None:
        self._levels = levels
        self._log_quantiles: Floats = np.zeros((window, len(levels)))
        self._log_tokens: Floats = np.zeros(window)
        self._is_cut: Bools = np.zeros(window, dtype=np.bool_)
        self._num_seen = 0
        self._num_fitted = 0
        self._correction: Correction | None = None

    def observe(self, log_quantiles: Floats, num_tokens: int, *, is_cut: bool) -> None:
        """What was predicted (levels,), before any correction, and what came of it."""
        row = self._num_seen % len(self._log_tokens)
        self._log_quantiles[row] = log_quantiles
        self._log_tokens[row] = math.log(max(num_tokens, 1))
        self._is_cut[row] = is_cut
        self._num_seen += 1

    def apply(self, log_quantiles: Floats) -> Floats:
        """Corrected quantiles (levels,), rising; as they were before the first observation."""
        num_new = self._num_seen - self._num_fitted
        if num_new and num_new * REFIT_SHARE >= self._num_kept:
            kept = slice(self._num_kept)
            self._correction = fit(
                self._levels,
                Observations(self._log_quantiles[kept], self._log_tokens[kept], self._is_cut[kept]),
            )
            self._num_fitted = self._num_seen
        return log_quantiles if self._correction is None else self._correction.apply(log_quantiles)

    def figures(self) -> RecalibrationFigures:
        """For metrics."""
        shift = 0.0 if self._correction is None else self._correction.shift
        return RecalibrationFigures(num_observations=self._num_kept, factor=math.exp(shift))

    @property
    def _num_kept(self) -> int:
        return min(self._num_seen, len(self._log_tokens))


class Recalibrations:
    """Of all served models."""

    def __init__(
        self, levels: Sequence[float], *, window: int = WINDOW, max_models: int = MAX_MODELS
    ) -> None:
        self._levels: Floats = np.array(levels)
        self._window = window
        self._max_models = max_models
        self._by_model: OrderedDict[str, Recalibration] = OrderedDict()

    def find(self, model: str) -> Recalibration | None:
        """None before its first observation."""
        return self._by_model.get(model)

    def observe(self, model: str, log_quantiles: Floats, num_tokens: int, *, is_cut: bool) -> None:
        """As ``Recalibration.observe``."""
        if model not in self._by_model:
            self._by_model[model] = Recalibration(self._levels, self._window)
            if len(self._by_model) > self._max_models:
                self._by_model.popitem(last=False)
        self._by_model.move_to_end(model)
        self._by_model[model].observe(log_quantiles, num_tokens, is_cut=is_cut)

    def figures(self) -> Mapping[str, RecalibrationFigures]:
        """By served model."""
        return {model: one.figures() for model, one in self._by_model.items()}
