"""The estimator used online: question in, distribution of output tokens out, within a deadline."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from functools import partial
from pathlib import Path

from length_estimation.model_folder import DEFAULT_FOLDER
from length_estimation.online.batching import Batcher
from length_estimation.online.cache import EstimateCache, question_key
from length_estimation.online.distribution import EstimateMaker
from length_estimation.online.errors import (
    DeadlinePassed,
    InferenceFailed,
    InvalidQuestion,
    NotEstimated,
)
from length_estimation.online.figures import EstimatorFigures
from length_estimation.online.recalibration import Recalibrations
from length_estimation.online.session import RawEstimate, load_model
from wire.length import LengthEstimate, LengthQuestion
from wire.prediction import MAX_TOKENS

logger = logging.getLogger(__name__)

LARGEST_NUMBER = 2**63 - 1


class OnlineEstimator:
    """Estimates with a trained model, corrected by what the served models really answer.

    Belongs to one event loop; inference runs on a thread of its own.
    """

    def __init__(
        self,
        folder: Path = DEFAULT_FOLDER,
        *,
        deadline_s: float = 0.05,
        max_waiting: int = 64,
        max_batch: int = 64,
        cache_size: int = 10_000,
        num_threads: int = 1,
    ) -> None:
        """Load and check the model, and warm it up: a fraction of a second.

        Raises:
            ModelFolderError: a file is missing, damaged, or no such model; names it.
        """
        self._model = load_model(folder, num_threads=num_threads)
        self._window = self._model.config.inputs.window
        self._deadline_s = deadline_s
        self._cache = EstimateCache(cache_size)
        self._batcher = Batcher(
            self._model.predict,
            max_batch=max_batch,
            max_waiting=max_waiting,
            batch_s=deadline_s / 2,  # who has just missed a batch can be in the next one
            timer=time.monotonic,
        )
        self._in_flight: dict[bytes, asyncio.Future[RawEstimate | NotEstimated]] = {}
        self._recalibrations = Recalibrations(self._model.config.quantile_levels)
        self._maker = EstimateMaker(self._model.config.quantile_levels)
        self._from_model = self._from_cache = self._num_observed = 0
        self._not_estimated: Counter[str] = Counter()
        self._not_observed: Counter[str] = Counter()
        self._logged: set[str] = set()

    async def start(self) -> None:
        """Answer until ``close``."""
        self._batcher.start()

    async def close(self) -> None:
        """Let the running inference end; questions that wait get no estimate."""
        await self._batcher.close()

    async def estimate(self, question: LengthQuestion) -> LengthEstimate:
        """The distribution of output tokens; ``source`` is ``model`` or ``model_recalibrated``.

        Raises:
            NotEstimated: see ``length_estimation.online.errors``.
        """
        try:
            raw = await self._raw(question)
        except NotEstimated as error:
            self._not_estimated[error.reason] += 1
            raise
        recalibration = self._recalibrations.find(question.model)
        if recalibration is None:
            return self._maker.make(raw, raw.log_quantiles, question.max_tokens, "model")
        corrected = recalibration.apply(raw.log_quantiles)
        return self._maker.make(raw, corrected, question.max_tokens, "model_recalibrated")

    async def try_estimate(self, question: LengthQuestion) -> LengthEstimate | None:
        """``estimate``, or None where that raises ``NotEstimated``; ``figures`` counts why."""
        try:
            return await self.estimate(question)
        except NotEstimated:
            return None

    def observe(self, question: LengthQuestion, num_output_tokens: int) -> bool:
        """Learn from an answer that ended by itself or at ``max_tokens``; tells whether it did.

        The prediction is looked up by the question's content. Where it is no longer in the cache,
        or the number cannot be true, nothing is learnt and ``figures`` counts why.
        """
        is_sound = _wrong(question) is None and 0 <= num_output_tokens <= MAX_TOKENS
        raw = None
        if is_sound and len(self._cache):
            raw = self._cache.get(question_key(question, self._window))
        if raw is None:
            self._not_observed["forgotten" if is_sound else "invalid"] += 1
            return False
        self._num_observed += 1
        most = question.max_tokens
        self._recalibrations.observe(
            question.model,
            raw.log_quantiles,
            num_output_tokens,
            is_cut=most is not None and num_output_tokens >= most,
        )
        return True

    def figures(self) -> EstimatorFigures:
        """Counts so far."""
        return EstimatorFigures(
            from_model=self._from_model,
            from_cache=self._from_cache,
            not_estimated=dict(self._not_estimated),
            num_batches=self._batcher.num_batches,
            num_batched_questions=self._batcher.num_batched_questions,
            num_observed=self._num_observed,
            not_observed=dict(self._not_observed),
            recalibrations=self._recalibrations.figures(),
        )

    async def _raw(self, question: LengthQuestion) -> RawEstimate:
        wrong = _wrong(question)
        if wrong is not None:
            raise InvalidQuestion(wrong)
        key = question_key(question, self._window)
        known = self._cache.get(key)
        if known is not None:
            self._from_cache += 1
            return known
        # Not awaited itself, so that whoever gives up stops nobody else's inference.
        future = self._in_flight.get(key) or self._submit(key, question)
        await asyncio.wait([future], timeout=self._deadline_s)
        if not future.done():
            raise DeadlinePassed(f"the model took longer than {self._deadline_s:g} s")
        result = future.result()
        if isinstance(result, NotEstimated):
            raise result
        self._from_model += 1
        return result

    def _submit(
        self, key: bytes, question: LengthQuestion
    ) -> asyncio.Future[RawEstimate | NotEstimated]:
        future = self._batcher.submit(question)
        self._in_flight[key] = future
        future.add_done_callback(partial(self._keep, key))
        return future

    def _keep(self, key: bytes, future: asyncio.Future[RawEstimate | NotEstimated]) -> None:
        """However late it is: the same question may come again, and its outcome will."""
        del self._in_flight[key]
        result = future.result()
        if isinstance(result, RawEstimate):
            self._cache.put(key, result)
        elif isinstance(result, InferenceFailed) and str(result) not in self._logged:
            self._logged.add(str(result))
            logger.error(
                "%s; further failures of this kind are only counted", result, exc_info=result
            )


def _wrong(question: LengthQuestion) -> str | None:
    """Names field and value of a number that no request has."""
    numbers = {
        "num_prompt_tokens": [question.num_prompt_tokens],
        "earlier_answer_characters": question.earlier_answer_characters,
        "max_tokens": [question.max_tokens or 0],
    }
    for field, values in numbers.items():
        for value in values:
            if not 0 <= value <= LARGEST_NUMBER:
                return f"{field} must be within 0 and {LARGEST_NUMBER} (got {value})"
    return None
