"""The throughput-saturation model of a step, as SLA-aware scheduling uses it.

    T(B, S) = tau_0 + S / Thr(B, S) + tau_B * B + tau_S * S
    Thr(B, S) = P_max * (1 - exp(-k_B * B)) * (1 - exp(-k_S * S))

with B sequences and S tokens in the batch. Given both rates k, it is linear in the other four,
which non-negative least squares finds; the rates are searched for on a grid that closes in.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from predictor.step_time.accuracy import Accuracy, accuracy
from predictor.step_time.base import BatchShape
from predictor.step_time.least_squares import Floats, solve_nonnegative
from predictor.step_time.records import StepFeed, is_usable, record_shape
from predictor.step_time.table import DECODE_TOKENS, PREFILL_TOKENS, StepTable, step_table
from wire.snapshot import StepRecord

_GRID = 7
_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class SaturationSettings:
    """When the model is fitted and when it is trusted."""

    min_samples: int = 50
    buffer_size: int = 1000
    """Steps that are kept to fit to, the newest."""
    model_update_threshold: float = 0.15
    """A mean relative error above it calls for a new fit."""
    model_confidence: float = 0.8
    """A fit with a smaller R2 is not used."""
    fallback_intercept_ms: float = 8.7
    fallback_slope_ms: float = 0.0215
    """Of one token, in the line that stands in while there is no model."""


@dataclass(frozen=True, slots=True)
class SaturationStepTime:
    """The model with its parameters; times in seconds, rates per sequence and per token."""

    tau_0: float
    tau_b: float
    tau_s: float
    p_max: float
    """Tokens per second at most; infinity leaves the line of the other three."""
    k_b: float
    k_s: float

    def step_s(self, shape: BatchShape) -> float:
        """Seconds of one step; an empty batch takes none."""
        seqs, tokens = shape.num_seqs, shape.num_tokens
        if tokens == 0:
            return 0.0
        saturation = math.expm1(-self.k_b * seqs) * math.expm1(-self.k_s * tokens)
        work_s = tokens / (self.p_max * saturation)
        return self.tau_0 + work_s + self.tau_b * seqs + self.tau_s * tokens

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``: the work's time is a product of one factor by tokens and one by
        sequences.
        """
        tokens, seqs = np.arange(1.0, max_tokens + 1), np.arange(1.0, max_seqs + 1)
        token_s, seq_factor, seq_s = (np.zeros(n + 1) for n in (max_tokens, max_seqs, max_seqs))
        token_s[1:] = -tokens / (self.p_max * np.expm1(-self.k_s * tokens))
        seq_factor[1:] = -1 / np.expm1(-self.k_b * seqs)
        seq_s[1:] = self.tau_0 + self.tau_b * seqs
        weights = {PREFILL_TOKENS: self.tau_s, DECODE_TOKENS: self.tau_s}
        return step_table(token_s, max_seqs, seq_factor=seq_factor, seq_s=seq_s, weights=weights)


def fallback(settings: SaturationSettings) -> SaturationStepTime:
    """The line that stands in while there is no model."""
    return SaturationStepTime(
        tau_0=settings.fallback_intercept_ms / 1e3,
        tau_b=0.0,
        tau_s=settings.fallback_slope_ms / 1e3,
        p_max=math.inf,
        k_b=1.0,
        k_s=1.0,
    )


def fit_saturation(
    records: Sequence[StepRecord], settings: SaturationSettings | None = None
) -> SaturationStepTime:
    """The model with the least squared relative error.

    With too few usable records, or when even the best explains too little of the times' variance,
    it is the fallback line.
    """
    limits = settings or SaturationSettings()
    usable = [record for record in records if is_usable(record)]
    if len(usable) < limits.min_samples:
        return fallback(limits)
    seqs = np.array([float(r.num_prefill_seqs + r.num_decode_seqs) for r in usable])
    tokens = np.array([float(r.num_prefill_tokens + r.num_decode_tokens) for r in usable])
    seconds = np.array([record.duration_s for record in usable])
    model = _search(seqs, tokens, seconds)
    is_good = _accuracy(model, usable).r2 >= limits.model_confidence
    return model if is_good else fallback(limits)


class OnlineSaturation:
    """Fits anew whenever the model has become bad at telling the last steps."""

    def __init__(self, settings: SaturationSettings | None = None) -> None:
        """Starts with the fallback line."""
        self._settings = settings or SaturationSettings()
        self._feed = StepFeed()
        self._records: deque[StepRecord] = deque(maxlen=self._settings.buffer_size)
        self._model = fallback(self._settings)
        self._num_since_fit = 0

    def observe(self, records: Sequence[StepRecord]) -> int:
        """Take in a snapshot's records; how many were new and could be used."""
        fresh = self._feed.fresh(records)
        self._records.extend(fresh)
        self._num_since_fit += len(fresh)
        if self._num_since_fit >= self._settings.min_samples and self._is_bad():
            self._model = fit_saturation(list(self._records), self._settings)
            self._num_since_fit = 0
        return len(fresh)

    def model(self) -> SaturationStepTime:
        """The model as it is now."""
        return self._model

    def _is_bad(self) -> bool:
        recent = list(self._records)[-self._settings.min_samples :]
        return _accuracy(self._model, recent).mape > self._settings.model_update_threshold


def _accuracy(model: SaturationStepTime, records: Sequence[StepRecord]) -> Accuracy:
    predicted = [model.step_s(record_shape(record)) for record in records]
    return accuracy([record.duration_s for record in records], predicted)


def _search(seqs: Floats, tokens: Floats, seconds: Floats) -> SaturationStepTime:
    """Rates on a grid in log space, again around the best with a finer one."""
    centre = np.log([0.1, 0.01])
    span = math.log(1000.0)
    best_error, best = _fit_given_rates(seqs, tokens, seconds, *np.exp(centre).tolist())
    for _ in range(_ROUNDS):
        offsets = np.linspace(-span, span, _GRID)
        for k_b in np.exp(centre[0] + offsets):
            for k_s in np.exp(centre[1] + offsets):
                error, model = _fit_given_rates(seqs, tokens, seconds, float(k_b), float(k_s))
                if error < best_error:
                    best_error, best = error, model
        centre = np.log([best.k_b, best.k_s])
        span /= 3.0
    return best


def _fit_given_rates(
    seqs: Floats, tokens: Floats, seconds: Floats, k_b: float, k_s: float
) -> tuple[float, SaturationStepTime]:
    """The best other parameters, and the sum of the squared relative errors."""
    work = tokens / (np.expm1(-k_b * seqs) * np.expm1(-k_s * tokens))
    rows = np.stack([np.ones_like(seqs), work, seqs, tokens], axis=1) / seconds[:, None]
    tau_0, per_work, tau_b, tau_s = solve_nonnegative(rows.T @ rows, rows.sum(axis=0)).tolist()
    error = float(((rows @ [tau_0, per_work, tau_b, tau_s] - 1) ** 2).sum())
    p_max = 1 / per_work if per_work else math.inf
    return error, SaturationStepTime(tau_0, tau_b, tau_s, p_max, k_b, k_s)
