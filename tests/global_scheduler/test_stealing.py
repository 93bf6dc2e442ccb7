"""Units that take requests of the other pool, with sidecars that predict what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.global_scheduler.crowds import (
    LONG,
    Crowd,
    crowd,
    die,
    hang,
    is_active,
    is_waiting,
    metric_is,
    nan,
)
from tests.global_scheduler.fleet import Behaviour, ScriptedEngine, eventually, worked_off

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def thieves(short: ScriptedEngine, **settings: Any) -> AsyncIterator[Crowd]:
    """A short unit that was used a moment ago, and a long one that is full, with one more to come.

    The short one has a second place, which no short request wants.
    """
    chosen = {"pools": "static", "rasp_tau_cool_s": 1_000.0, "worker_concurrency_limit": 2}
    async with crowd(short, ScriptedEngine(), **(chosen | settings)) as made:
        await made.change("/u1", concurrency_limit=1)
        made.send(1, "hello")
        await eventually(lambda: is_active(made, "u0", 1))
        made.send(2, LONG)
        yield made


async def test_a_steal_that_does_no_harm_is_allowed_by_a_what_if() -> None:
    """Though the unit is not idle; it is shown in the decision and counted."""
    async with thieves(ScriptedEngine()) as made:
        await eventually(lambda: is_active(made, "u0", 2))
        decision = (await made.fleet.decisions())[-1]
        assert (decision["unit"], decision["is_stolen"]) == ("u0", True)
        assert "the other pool" in decision["reason"]
        counted = 'astrolabe_steals_total{allowed_by="what_if",class="long"} '
        assert await made.fleet.metric(counted) == 1


@pytest.mark.parametrize("stealing", ["off", "rasp"])
async def test_other_rules_ask_no_sidecar(stealing: str) -> None:
    """A unit that runs something steals by what-if only."""
    short = ScriptedEngine()
    async with thieves(short, stealing=stealing) as made:
        await eventually(lambda: is_waiting(made, "long", 1))
        await asyncio.sleep(0.3)
        assert await is_waiting(made, "long", 1)
        assert short.backlogs == []


async def test_a_harmful_steal_is_refused() -> None:
    """A goal would be missed: the request waits on, and the sidecar is left alone a while."""
    short = ScriptedEngine(predict_backlog=lambda backlog: worked_off(backlog, num_slo_broken=1))
    async with thieves(short) as made:
        await eventually(
            lambda: metric_is(made, 'astrolabe_steals_refused_total{class="long"} ', 2)
        )
        assert await is_waiting(made, "long", 1)
        assert len(short.backlogs) <= 4


@pytest.mark.parametrize("behave", [hang, die, nan])
async def test_without_an_answer_nothing_is_stolen(behave: Behaviour) -> None:
    """Slow, dead or lying."""
    short = ScriptedEngine(answer_backlogs=behave)
    async with thieves(short) as made:
        await eventually(lambda: _metric_sum_is(made, 'purpose="steal"', 2))
        assert await is_waiting(made, "long", 1)


async def test_an_idle_short_unit_steals_by_rasp() -> None:
    """At once when it has been idle for longer than tau_cool: one request, then it is busy."""
    async with crowd(
        ScriptedEngine(),
        ScriptedEngine(),
        pools="static",
        stealing="rasp",
        rasp_tau_cool_s=0.2,
        worker_concurrency_limit=4,
    ) as made:
        await made.change("/u1", concurrency_limit=1)
        made.send(4, LONG)
        await eventually(lambda: is_active(made, "u0", 1))
        await asyncio.sleep(0.3)
        assert await is_active(made, "u0", 1)
        assert await is_waiting(made, "long", 2)
        counted = 'astrolabe_steals_total{allowed_by="rasp",class="long"} '
        assert await made.fleet.metric(counted) == 1


async def _metric_sum_is(made: Crowd, labels: str, least: float) -> bool:
    lines = (await made.fleet.client.get("/metrics")).text.splitlines()
    missing = [line for line in lines if line.startswith("astrolabe_backlogs_missing_total{")]
    return sum(float(line.split()[-1]) for line in missing if labels in line) >= least
