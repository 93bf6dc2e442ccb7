"""What a calibration shows of itself, for metrics."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LatencyFigures:
    """One of TTFT, TPOT and E2E. Errors are those of the last corrected predictions, compared
    before anything was learnt from their outcome; None before there are any."""

    num_samples: int
    """Since the start."""
    median_abs_error: float | None
    """Median of ``abs(predicted - observed) / observed``, the true output length given."""
    bias: float | None
    """Median of ``(predicted - observed) / observed``."""
    p90_coverage: float | None
    """Share of the observed values within p90; 0.9 is right."""
    factor: dict[str, float]
    """By load region."""
    added_ms: dict[str, float]
    """By load region."""
    drift: float
    """From 0 to 1, where drift is found."""
    drift_alarm: bool
    num_drifts: int
    """Since the start."""


@dataclass(frozen=True, slots=True)
class CalibrationFigures:
    """By latency, ``ttft``, ``tpot`` and ``e2e``, and what else came in."""

    latencies: dict[str, LatencyFigures]
    num_unknown: int
    """Ended requests that had no prediction, or one too long ago."""
    num_refused: int
    """Ended requests whose observations cannot be true."""
