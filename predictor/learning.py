"""Learns an engine's step times in the background, from the records in its snapshots."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Sequence

from predictor.errors import StateUnavailable
from predictor.state.base import StateSource
from predictor.step_time.base import BatchShape, StepTimeModel, batch_shape
from predictor.step_time.online import OnlineStepTime, StepTimeFigures
from predictor.step_time.table import StepTable
from wire.model_config import ModelConfig
from wire.snapshot import EngineSnapshot, StepRecord

logger = logging.getLogger(__name__)

READ_INTERVAL_S = 0.2
"""Short enough for a snapshot's 64 records to overlap where steps take 3 ms or more."""
RETRY_INTERVAL_S = 1.0
APPLY_INTERVAL_S = 1.0
NOTICEABLE = 0.005
"""Relative change of a step's time from which on the what-if gets another table."""
RECORDS_A_SLICE = 8
"""Learning from this many takes about a millisecond of the event loop."""


class LiveStepTime:
    """The step-time model in use; what is learnt takes its place."""

    def __init__(self, model: StepTimeModel, origin: str) -> None:
        """``origin`` says where the model to start with is from."""
        self.model = model
        self.origin = origin
        self.is_learnt = False
        """Whether the engine's own steps have had a say."""

    def step_s(self, shape: BatchShape) -> float:
        """See ``StepTimeModel``."""
        return self.model.step_s(shape)

    def tabulate(self, max_tokens: int, max_seqs: int) -> StepTable:
        """See ``StepTimeModel``."""
        return self.model.tabulate(max_tokens, max_seqs)


class StepTimeLearner:
    """Keeps a live model true to its engine."""

    def __init__(
        self,
        source: StateSource,
        live: LiveStepTime,
        model: ModelConfig,
        apply: Callable[[StepTimeModel], Awaitable[None]],
        timer: Callable[[], float],
    ) -> None:
        """``apply`` is told of a model that differs noticeably; ``timer`` is monotonic.

        The source is the learner's own, so that questions need not pay for it.
        """
        self._source = source
        self._live = live
        self._online = OnlineStepTime(live.model, model)
        self._probes = _probes(model)
        self._apply = apply
        self._timer = timer
        self._applied_at_s = -APPLY_INTERVAL_S
        self._snapshot: EngineSnapshot | None = None

    def figures(self) -> StepTimeFigures:
        """How well the engine's steps have been predicted."""
        return self._online.figures()

    async def run(self) -> None:
        """Learn until cancelled."""
        try:
            while True:
                wait_s = await self._look()
                await asyncio.sleep(wait_s)
        finally:
            await self._source.close()

    async def _look(self) -> float:
        """Learn from what is new; seconds until the next time."""
        try:
            snapshot = await self._source.read()
        except StateUnavailable:  # the questions' own reading tells of it
            return RETRY_INTERVAL_S
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            await self._learn(snapshot.recent_steps)
        return READ_INTERVAL_S

    async def _learn(self, records: Sequence[StepRecord]) -> None:
        num_learnt = 0
        for start in range(0, len(records), RECORDS_A_SLICE):
            num_learnt += self._online.observe(records[start : start + RECORDS_A_SLICE])
            await asyncio.sleep(0)
        if num_learnt and self._timer() >= self._applied_at_s + APPLY_INTERVAL_S:
            learnt = self._online.model()
            if self._differs(learnt):
                self._applied_at_s = self._timer()
                self._live.model, self._live.is_learnt = learnt, True
                await self._apply(learnt)

    def _differs(self, learnt: StepTimeModel) -> bool:
        return any(
            abs(learnt.step_s(probe) - (now_s := self._live.step_s(probe))) > NOTICEABLE * now_s
            for probe in self._probes
        )


def _probes(model: ModelConfig) -> list[BatchShape]:
    """Batches whose times together tell models apart."""
    decodes = [1, model.max_batch_size // 4, model.max_batch_size]
    chunks = [0, model.chunk_size // 4, model.chunk_size]
    return [
        batch_shape([(chunk, 0)] if chunk else [], [context] * num_decodes)
        for num_decodes, chunk, context in itertools.product(decodes, chunks, (128, 1024))
        if num_decodes
    ]
