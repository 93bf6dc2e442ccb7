"""What an estimator has done so far, for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecalibrationFigures:
    """How the estimates for one served model are corrected."""

    num_observations: int
    """In the window."""
    factor: float
    """What the median of a typical request is multiplied by."""


@dataclass(frozen=True, slots=True)
class EstimatorFigures:
    """Counts since the estimator was made."""

    from_model: int
    """Estimates that waited for an inference."""
    from_cache: int
    """Estimates whose question had been seen before."""
    not_estimated: Mapping[str, int]
    """By reason: ``deadline``, ``overload``, ``failed``, ``invalid``."""
    num_batches: int
    num_batched_questions: int
    """In all batches together."""
    num_observed: int
    """Outcomes that were learnt from."""
    not_observed: Mapping[str, int]
    """Outcomes that were not, by reason: ``forgotten`` (there is no prediction in the cache, or no
    longer), ``invalid``."""
    recalibrations: Mapping[str, RecalibrationFigures]
    """By served model."""
