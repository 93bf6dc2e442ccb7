"""Which state a question is answered from, and when it is called stale."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from predictor.errors import StateUnavailable
from predictor.state.base import StateSource
from predictor.state.ledger import LedgerStateSource
from predictor.state.select import (
    RETRY_AFTER_S,
    SILENT_AFTER_LIMITS,
    STALE_AFTER_S,
    StateSelector,
    make_selector,
)
from predictor.step_time.gpus import find_gpu
from predictor.step_time.roofline import RooflineStepTime
from tests.predictor.engines import MODEL, NOW, limits, running, snapshot
from wire.prediction import SentRequest
from wire.prediction import StateSource as StateSourceName
from wire.snapshot import EngineSnapshot

pytestmark = pytest.mark.anyio

STEP_TIME = RooflineStepTime(MODEL, find_gpu("A30"))


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Source:
    """Reads what the test put there; None is out of order."""

    def __init__(self, name: StateSourceName, found: EngineSnapshot | None) -> None:
        self.name = name
        self.found = found
        self.num_reads = 0

    async def read(self, sent: Sequence[SentRequest] | None = None) -> EngineSnapshot:
        """Count the call."""
        self.num_reads += 1
        if self.found is None:
            raise StateUnavailable(f"{self.name} is out of order")
        return self.found

    async def close(self) -> None:
        """Nothing is held."""


def selector(clock: Clock, *sources: StateSource) -> StateSelector:
    """These sources in this order."""
    return StateSelector(sources, clock)


def ledger(clock: Clock) -> LedgerStateSource:
    """The real one."""
    return LedgerStateSource(limits(), "m", "unit-1", STEP_TIME, clock)


def sent(age_ms: float) -> list[SentRequest]:
    """One request in flight."""
    request = SentRequest(
        request_id="a", num_prompt_tokens=60, expected_output_tokens=80.0, sent_age_ms=age_ms
    )
    return [request]


async def test_the_first_source_that_works_is_read() -> None:
    """And a better one again after a while."""
    clock, plugin, metrics = Clock(), Source("plugin", None), Source("metrics", snapshot())
    chosen = selector(clock, plugin, metrics)
    assert (await chosen.read()).source == "metrics"
    plugin.found = snapshot()
    assert (await chosen.read()).source == "metrics"
    assert plugin.num_reads == 1
    clock.now += RETRY_AFTER_S
    assert (await chosen.read()).source == "plugin"


async def test_without_any_source_every_reason_is_told() -> None:
    """In one error."""
    chosen = selector(Clock(), Source("plugin", None), Source("metrics", None))
    with pytest.raises(StateUnavailable, match=r"plugin is out of order.*metrics is out of order"):
        await chosen.read()


async def test_the_ledger_serves_questions_that_bring_one() -> None:
    """An empty list, too; others go on to the next source, and the ledger is not left alone."""
    clock = Clock()
    chosen = selector(clock, Source("plugin", None), ledger(clock), Source("metrics", snapshot()))
    assert (await chosen.read(None)).source == "metrics"
    told = await chosen.read(sent(100.0))
    assert told.source == "ledger"
    assert [s.request_id for s in told.snapshot.running] == ["a"]
    assert (await chosen.read([])).source == "ledger"


async def test_old_state_is_stale_when_there_is_work() -> None:
    """Nothing runs on an idle engine, so nothing is written; but what was sent would run."""
    clock = Clock()
    busy, idle = Source("plugin", snapshot(running("a"))), Source("plugin", snapshot())
    clock.now += STALE_AFTER_S
    assert not (await selector(clock, busy).read()).is_stale
    clock.now += 0.1
    assert (await selector(clock, busy).read()).is_stale
    assert not (await selector(clock, idle).read()).is_stale
    assert not (await selector(clock, idle).read(sent(STALE_AFTER_S * 1e3))).is_stale
    late = await selector(clock, idle).read(sent(STALE_AFTER_S * 1e3 + 1))
    assert (late.is_stale, late.source) == (True, "plugin")
    assert late.age_ms == pytest.approx((STALE_AFTER_S + 0.1) * 1e3)


async def test_after_a_long_silence_the_gateway_knows_more() -> None:
    """Its account is taken instead, if it brings one; the last state is still used otherwise."""
    clock, plugin = Clock(), Source("plugin", snapshot(running("x")))
    chosen = selector(clock, plugin, ledger(clock), Source("metrics", snapshot()))
    clock.now += STALE_AFTER_S * SILENT_AFTER_LIMITS
    assert (await chosen.read(sent(100.0))).source == "plugin"
    clock.now += 0.1
    told = await chosen.read(sent(100.0))
    assert (told.source, told.is_stale, told.age_ms) == ("ledger", False, 0.0)
    untold = await chosen.read(None)
    assert (untold.source, untold.is_stale) == ("plugin", True)
    plugin.found = snapshot(running("x"))
    plugin.found.time = clock.now
    assert (await chosen.read(sent(100.0))).source == "plugin"


async def test_one_source_can_be_asked_for() -> None:
    """Only that one is then read: no engine is there, and the gateway's account needs none."""
    chosen = make_selector(
        "ledger",
        snapshot_address="shm:no-such-engine",
        engine_url="http://127.0.0.1:9",
        engine_id="unit-1",
        model=MODEL,
        num_gpu_blocks=700,
        step_time=STEP_TIME,
        clock=Clock(),
    )
    state = await chosen.read(None)
    assert (state.source, state.snapshot.limits.num_gpu_blocks) == ("ledger", 700)
    await chosen.close()
