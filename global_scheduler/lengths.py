"""The expected output length of a request: by the trained model, else by a running mean."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from global_scheduler.length_metrics import LengthMetrics
from length_estimation.model_folder import DEFAULT_FOLDER
from length_estimation.online.estimator import OnlineEstimator
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import MAX_TOKENS

logger = logging.getLogger(__name__)

WINDOW = 200
"""Answers after which the mean forgets: a model's verbosity changes with its traffic."""
UNBOUNDED_GUESS = 256
"""Output tokens expected of the first request when it names no ``max_tokens``."""


class RunningMeanLengths:
    """Per model, the exponentially forgetting mean of observed output tokens."""

    def __init__(self) -> None:
        self._mean: dict[str, float] = {}
        self._count: dict[str, int] = {}

    def estimate(self, model: str, max_tokens: int | None) -> LengthEstimate:
        """The mean so far, at most ``max_tokens``; before any answer ``max_tokens`` itself."""
        mean = self._mean.get(model)
        if mean is None:
            first = float(max_tokens if max_tokens is not None else UNBOUNDED_GUESS)
            return LengthEstimate(mean_tokens=first, source="max_tokens")
        bounded = mean if max_tokens is None else min(mean, float(max_tokens))
        return LengthEstimate(mean_tokens=bounded, source="running_mean")

    def observe(self, model: str, num_output_tokens: int) -> None:
        """Learn from an answer that ended by itself."""
        count = min(self._count.get(model, 0) + 1, WINDOW)
        mean = self._mean.get(model, 0.0)
        self._mean[model] = mean + (num_output_tokens - mean) / count
        self._count[model] = count

    def means(self) -> dict[str, float]:
        """The mean by model."""
        return dict(self._mean)


class Lengths:
    """Estimates by the model where it is loaded and answers in time, else by the running mean."""

    def __init__(
        self,
        estimator: OnlineEstimator | None,
        registry: CollectorRegistry,
        clock: Callable[[], float],
    ) -> None:
        self._estimator = estimator
        self._means = RunningMeanLengths()
        self._metrics = LengthMetrics(registry, estimator.figures if estimator else None)
        self._clock = clock
        self._logged: set[tuple[str, str]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The model is there for as long as the block lasts."""
        if self._estimator is None:
            yield
            return
        await self._estimator.start()
        try:
            yield
        finally:
            await self._estimator.close()

    async def estimate(self, question: LengthQuestion, *, by_model: bool) -> LengthEstimate:
        """How long the answer will get; within the model's deadline.

        Prompts without text, such as token ids, tell a model nothing.
        """
        estimate = None
        if self._estimator is not None and by_model and question.text:
            asked_s = self._clock()
            estimate = await self._try_model(self._estimator, question)
            self._metrics.asked_model(self._clock() - asked_s)
        if estimate is None:
            estimate = self._means.estimate(question.model, question.max_tokens)
        self._metrics.estimated(estimate.source)
        return estimate

    def observe(
        self, question: LengthQuestion, estimate: LengthEstimate, num_output_tokens: int
    ) -> None:
        """Learn from one sequence that ended, by itself or at ``max_tokens``."""
        if not 1 <= num_output_tokens <= MAX_TOKENS:
            return
        self._metrics.observed(question.model, estimate, num_output_tokens)
        self._means.observe(question.model, num_output_tokens)
        if self._estimator is None:
            return
        try:
            self._estimator.observe(question, num_output_tokens)
        except Exception as error:  # the answer that it could not learn from is there
            self._failed("observing", error)

    async def _try_model(
        self, estimator: OnlineEstimator, question: LengthQuestion
    ) -> LengthEstimate | None:
        """The model's estimate, if it gives one that can be."""
        try:
            estimate = await estimator.try_estimate(question)
            if estimate is not None and not _can_be(estimate):
                raise ValueError(f"the estimate is {estimate}")
        except Exception as error:  # no request fails for want of an estimate, whatever it was
            self._failed("estimating", error)
            return None
        return estimate

    def _failed(self, doing: str, error: Exception) -> None:
        """Count each failure; tell of the first of its kind, for every request may have one."""
        self._metrics.failed(doing)
        kind = (doing, type(error).__name__)
        if kind not in self._logged:
            self._logged.add(kind)
            logger.error(
                "the length estimator failed %s; further failures of this kind are only counted",
                doing,
                exc_info=error,
            )

    def state(self) -> dict[str, Any]:
        """What has been learnt and counted, for people."""
        return {
            "estimator": self._estimator.figures() if self._estimator else None,
            "running_mean_tokens": self._means.means(),
        }


def _can_be(estimate: LengthEstimate) -> bool:
    """Whether all its numbers are numbers of tokens; the comparison is false for NaN."""
    return all(0.0 <= n <= MAX_TOKENS for n in (estimate.mean_tokens, *estimate.quantiles.values()))


def open_estimator(chosen: str, deadline_s: float) -> OnlineEstimator | None:
    """The model that ``--length-estimator`` names; None for ``none``, and where an installation
    has come without the default one.

    Raises:
        ModelFolderError: the folder cannot be used; names the file and what is wrong.
    """
    if chosen == "none":
        return None
    folder = DEFAULT_FOLDER if chosen == "default" else Path(chosen)
    if chosen == "default" and not folder.exists():
        logger.warning(
            "the default length estimator is not installed (no %s): "
            "a running mean stands in for it",
            folder,
        )
        return None
    return OnlineEstimator(folder, deadline_s=deadline_s)
