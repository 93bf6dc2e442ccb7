"""Which source an engine's state is read from: the best that works at the moment.

Best first: ``plugin``, ``ledger``, ``metrics``. Old state is used and marked rather than refused:
a late answer from an old state beats none. Only where an engine with work to do has been silent for
``SILENT_AFTER_LIMITS`` times the limit is the gateway's own account taken instead of its plug-in's
last word: such an engine hangs, or its plug-in does, and then what has streamed back since is
newer; while an engine in one long prefill, the usual reason for a silence, is still known best by
its plug-in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from predictor.errors import StateUnavailable
from predictor.state.base import StateSource
from predictor.state.ledger import LedgerStateSource
from predictor.state.metrics import MetricsStateSource, limits_of
from predictor.state.plugin import PluginStateSource
from predictor.step_time.base import StepTimeModel
from wire.model_config import ModelConfig
from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""A better source that failed is tried again after this long."""
STALE_AFTER_S = 2.0
SILENT_AFTER_LIMITS = 5.0
"""Times the limit of staleness after which another source is preferred."""

StateChoice = Literal["auto", "plugin", "ledger", "metrics"]


@dataclass(frozen=True, slots=True)
class State:
    """A snapshot, where it is from, and when it was read."""

    snapshot: EngineSnapshot
    source: StateSourceName
    read_at: float
    is_stale: bool = False
    """It is older than the limit although the engine has work to do."""

    @property
    def age_ms(self) -> float:
        """How old the snapshot was when it was read.

        An engine with a batch in flight or with nothing to do writes no newer one.
        """
        return max(0.0, (self.read_at - self.snapshot.time) * 1e3)


class StateSelector:
    """Reads the first source that works, best first."""

    def __init__(
        self,
        sources: Sequence[StateSource],
        clock: Callable[[], float],
        stale_after_s: float = STALE_AFTER_S,
    ) -> None:
        """The clock gives UNIX seconds."""
        self._sources = sources
        self._clock = clock
        self._stale_after_s = stale_after_s
        self._retry_at = [0.0] * len(sources)
        self._last: StateSourceName | None = None

    async def read(self, sent: Sequence[SentRequest] | None = None) -> State:
        """The engine's state.

        Args:
            sent: what the asking gateway has in flight on the engine; None if it keeps no account.

        Raises:
            InvalidQuestion: something in ``sent`` cannot be.
            StateUnavailable: no source works; the message has the reason of each.
        """
        state = await self._first_that_works(sent)
        if sent is not None and self._is_silent(state):
            for ledger in (source for source in self._sources if source.name == "ledger"):
                state = self._state(ledger, await ledger.read(sent), sent)
        self._note(state.source)
        return state

    async def close(self) -> None:
        """Close every source."""
        for source in self._sources:
            await source.close()

    async def _first_that_works(self, sent: Sequence[SentRequest] | None) -> State:
        reasons = []
        last = len(self._sources) - 1
        for index, source in enumerate(self._sources):
            # The last resort is always tried: there is nothing to be spared by not asking it.
            if index != last and self._clock() < self._retry_at[index]:
                continue
            try:
                return self._state(source, await source.read(sent), sent)
            except StateUnavailable as error:
                reasons.append(f"{source.name}: {error}")
                # The ledger comes with the question: the next one may bring it.
                if source.name != "ledger":
                    self._retry_at[index] = self._clock() + RETRY_AFTER_S
        self._note(None)
        self._retry_at = [0.0] * len(self._sources)
        raise StateUnavailable("the engine's state cannot be read: " + "; ".join(reasons))

    def _state(
        self, source: StateSource, snapshot: EngineSnapshot, sent: Sequence[SentRequest] | None
    ) -> State:
        now = self._clock()
        is_old = now - snapshot.time > self._stale_after_s
        return State(snapshot, source.name, now, is_old and self._has_work(snapshot, sent or ()))

    def _has_work(self, snapshot: EngineSnapshot, sent: Sequence[SentRequest]) -> bool:
        """An idle engine writes nothing, but what it was sent should have made it write."""
        limit_ms = self._stale_after_s * 1e3
        return bool(snapshot.running or snapshot.waiting or snapshot.in_flight) or any(
            request.sent_age_ms > limit_ms for request in sent
        )

    def _is_silent(self, state: State) -> bool:
        return state.is_stale and state.age_ms > self._stale_after_s * SILENT_AFTER_LIMITS * 1e3

    def _note(self, name: StateSourceName | None) -> None:
        """Log changes, not every read."""
        if name != self._last:
            logger.warning("state source: %s (was %s)", name or "none", self._last or "none")
            self._last = name


def make_selector(
    choice: StateChoice,
    *,
    snapshot_address: str,
    engine_url: str,
    engine_id: str,
    model: ModelConfig,
    num_gpu_blocks: int,
    step_time: StepTimeModel,
    clock: Callable[[], float],
    stale_after_s: float = STALE_AFTER_S,
) -> StateSelector:
    """The state sources of one engine that are asked for, best first.

    Raises:
        ConfigurationError: the plug-in's address cannot be used.
    """
    sources: list[StateSource] = []
    if choice in ("auto", "plugin"):
        sources.append(PluginStateSource(snapshot_address))
    if choice in ("auto", "ledger"):
        limits = limits_of(model, num_gpu_blocks)
        is_only = choice == "ledger"
        sources.append(
            LedgerStateSource(
                limits, model.model_name, engine_id, step_time, clock, is_only_source=is_only
            )
        )
    if choice in ("auto", "metrics"):
        sources.append(MetricsStateSource(engine_url, model, engine_id, num_gpu_blocks, clock))
    return StateSelector(sources, clock, stale_after_s)
