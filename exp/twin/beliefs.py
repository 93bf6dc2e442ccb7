"""What the gateway is told of the length of an answer, in place of a trained estimator."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from exp.study.case import LengthBelief
from exp.workloads.request import WorkloadRequest
from global_scheduler.job import TOLD_LEVELS
from global_scheduler.lengths import RunningMeanLengths
from wire.length import LengthEstimate

_DEVIATIONS = {level: NormalDist().inv_cdf(float(level)) for level in TOLD_LEVELS}


class Beliefs:
    """Estimates of the lengths of a workload's answers.

    A noisy estimate is off by a log-normal factor. Quantiles are those of the length, given an
    estimate that is off by such a factor: wide exactly as they should be.
    """

    def __init__(
        self, belief: LengthBelief, requests: Sequence[WorkloadRequest], seed: int
    ) -> None:
        rng = np.random.default_rng([seed, 0x1E46])
        errors = np.exp(belief.error * rng.standard_normal(len(requests)))
        self._belief = belief
        self._errors = {
            request.request_id: float(error)
            for request, error in zip(requests, errors, strict=True)
        }
        self._means = RunningMeanLengths()

    def estimate(self, model: str, request: WorkloadRequest) -> LengthEstimate:
        """As of now."""
        belief, most = self._belief, float(request.max_tokens or "inf")
        if belief.kind == "running_mean":
            return self._means.estimate(model, request.max_tokens)
        if belief.kind == "oracle":
            return LengthEstimate(mean_tokens=float(request.num_output_tokens), source="oracle")
        typical = request.num_output_tokens * self._errors[request.request_id]
        if belief.kind == "noisy":
            return LengthEstimate(mean_tokens=max(1.0, min(typical, most)), source="noisy")
        quantiles = {
            level: max(1.0, min(typical * float(np.exp(belief.error * z)), most))
            for level, z in _DEVIATIONS.items()
        }
        mean = min(typical * float(np.exp(belief.error**2 / 2)), most)
        return LengthEstimate(mean_tokens=max(1.0, mean), quantiles=quantiles, source="quantiles")

    def observe(self, model: str, num_output_tokens: int) -> None:
        """An answer has ended."""
        self._means.observe(model, num_output_tokens)
