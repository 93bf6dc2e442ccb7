"""Settings that can have no effect are named, with what would give them one; and it is true."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from global_scheduler.policies import POLICIES
from global_scheduler.queueing import ORDERS
from tests.global_scheduler.crowds import LONG, Crowd, crowd, is_waiting
from tests.global_scheduler.fleet import Fleet, ScriptedEngine, eventually, fleet
from tests.global_scheduler.test_holding_back import queueing

pytestmark = pytest.mark.anyio

BLIND = sorted(name for name, one in POLICIES.items() if one.needs in ("nothing", "state"))
NUM = 24


async def named(running: Fleet) -> dict[str, dict[str, Any]]:
    """The settings that are said to have no effect, by name."""
    shown = (await running.client.get("/admin/settings")).json()["without_effect"]
    return {one["setting"]: one for one in shown}


async def all_have_started(made: Crowd, count: int) -> bool:
    """Whether the engines have so many requests."""
    return sum(len(engine.requests) for engine in made.fleet.engines) == count


async def stays_empty(made: Crowd) -> None:
    """Nothing waits in the gateway, now or a moment later."""
    await asyncio.sleep(0.3)
    queues = (await made.pools())["queues"]
    assert {name: queue["length"] for name, queue in queues.items()} == {"short": 0, "long": 0}


@pytest.mark.parametrize("policy", BLIND)
async def test_what_bounds_waiting_does_nothing_where_nothing_waits(policy: str) -> None:
    """Of a burst all go at once, in spite of the bounds; with the limit that is named they hold."""
    bounds = {"queue_order": "sjf", "max_queued_requests": 2, "max_overtakes": 1}
    settings = {"policy": policy, "pools": "none", "worker_concurrency_limit": "none"}
    engines = [ScriptedEngine(), ScriptedEngine()]
    async with crowd(*engines, **(settings | bounds)) as made:
        idle = await named(made.fleet)
        assert set(bounds) <= set(idle)
        assert f"policy {policy}" in idle["queue_order"]["why"]
        assert "--worker-concurrency-limit" in idle["queue_order"]["remedy"]
        made.send(NUM, "hello")
        await eventually(lambda: all_have_started(made, NUM))
        await stays_empty(made)
        await made.change(worker_concurrency_limit=8)
        assert not set(bounds) & set(await named(made.fleet))
        made.send(2, "hello")
        await eventually(lambda: is_waiting(made, "short", 2))
        assert (await made.fleet.complete()).headers["x-astrolabe-rejected"] == "queue_full"


@pytest.mark.parametrize(
    ("hold_above_ms", "is_idle"), [("6000", False), ("never", True)], ids=["held", "never"]
)
async def test_what_ifs_hold_requests_back_unless_they_may_not(
    hold_above_ms: str, is_idle: bool
) -> None:
    """The default policy needs no limit for an order to count."""
    engine = ScriptedEngine(answer_questions=queueing(60_000.0))
    settings = {"pools": "none", "worker_concurrency_limit": "none", "queue_order": "priority"}
    async with crowd(engine, hold_above_ms=hold_above_ms, **settings) as made:
        assert ("queue_order" in await named(made.fleet)) is is_idle
        made.send(1, "hello")
        await eventually(lambda: all_have_started(made, 1))
        made.send(5, "hello")
        if is_idle:
            await eventually(lambda: all_have_started(made, 6))
            await stays_empty(made)
        else:
            await eventually(lambda: _are_held(made, 5))


async def _are_held(made: Crowd, count: int) -> bool:
    return await made.fleet.metric('astrolabe_queue_requests{class="short"} ') == count


async def test_qhap_without_a_limit_has_nothing_to_look_at() -> None:
    """Of many long requests one unit takes all, and none moves; with a limit one does."""
    settings = {"pools": "qhap", "stealing": "off", "policy": "least_outstanding"}
    more = {"worker_concurrency_limit": "none", "qhap_cooldown_s": 0}
    async with crowd(*(ScriptedEngine() for _ in range(3)), **(settings | more)) as made:
        idle = await named(made.fleet)
        assert "nothing to look at" in idle["pools"]["why"]
        assert "--worker-concurrency-limit" in idle["pools"]["remedy"]
        made.send(NUM, LONG)
        await eventually(lambda: all_have_started(made, NUM))
        await stays_empty(made)
        assert sorted(map(str, (await made.by_pool()).values())) == ["long", "short", "short"]
        await made.change(worker_concurrency_limit=8)
        assert "pools" not in await named(made.fleet)
        made.send(NUM, LONG)
        await eventually(made.has_moved)
        assert "queue_long" in (await made.pools())["moves"][0]["reason"]


async def test_sidecars_that_nobody_asks() -> None:
    """What says how they are asked does nothing; goals make them be asked."""
    settings = {"policy": "round_robin", "num_query_predictors": 1, "coalesce_ms": 3}
    engines = [ScriptedEngine(), ScriptedEngine()]
    async with fleet(*engines, **settings) as running:
        names = {"num_query_predictors", "coalesce_ms", "prediction_deadline_ms"}
        idle = await named(running)
        assert names <= set(idle)
        assert "--slo" in idle["coalesce_ms"]["remedy"]
        assert (await running.complete()).status_code == 200
        assert not engines[0].questions + engines[1].questions
        await running.client.put("/admin/policy", json={"slo": ["*=60000"]})
        assert not names & set(await named(running))
        assert (await running.complete()).status_code == 200
        assert len(engines[0].questions + engines[1].questions) == 1


async def test_what_is_switched_is_judged_as_it_is_now() -> None:
    """The list follows the admin API, and tells the values that are in force."""
    async with fleet(ScriptedEngine(), ScriptedEngine()) as running:
        assert not await named(running)
        await running.client.put("/admin/pools", json={"stealing": "rasp", "num_long_units": 2})
        idle = await named(running)
        assert {name: one["value"] for name, one in idle.items()} == {
            "stealing": "rasp",
            "num_long_units": 2,
        }
        assert "--pools" in idle["stealing"]["remedy"]
        await running.client.put("/admin/pools", json={"pools": "static"})
        await running.client.put("/admin/policy", json={"policy": "round_robin"})
        assert set(await named(running)) >= {"prediction_deadline_ms", "stealing"}
        assert "num_long_units" not in await named(running)


async def test_a_plain_start_says_nothing_and_another_one_line_for_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only what is away from its default is worth a line."""

    def told() -> list[str]:
        return [r.message for r in caplog.records if r.message.startswith("without effect")]

    with caplog.at_level(logging.WARNING, "global_scheduler"):
        async with fleet(ScriptedEngine(), ScriptedEngine(), policy="min_total_delay"):
            assert told() == []
        async with fleet(ScriptedEngine(), ScriptedEngine(), rasp_tau_cool_s=5, pools="qhap"):
            (line,) = told()
    assert line.startswith("without effect: --pools qhap: its rule, by the long requests that wait")
    assert "; to give it one: --worker-concurrency-limit" in line


@pytest.mark.parametrize("order", sorted(set(ORDERS) - {"fifo"}))
async def test_every_order_has_an_effect_where_requests_wait(order: str) -> None:
    """With a limit none of them is named."""
    settings = {"policy": "round_robin", "worker_concurrency_limit": 4}
    async with fleet(ScriptedEngine(), queue_order=order, **settings) as running:
        assert "queue_order" not in await named(running)
