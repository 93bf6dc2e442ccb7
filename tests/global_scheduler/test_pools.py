"""Pools of a running gateway, with sidecars that predict what a test wants."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from global_scheduler import control_loop
from tests.global_scheduler.crowds import (
    LONG,
    Crowd,
    crowd,
    die,
    flood,
    hang,
    is_active,
    is_waiting,
    metric_is,
    nan,
    overloaded,
    too_few,
)
from tests.global_scheduler.fleet import Behaviour, ScriptedEngine, eventually, worked_off
from wire.prediction import BacklogPrediction, BacklogRequest

pytestmark = pytest.mark.anyio


def mixing_is_dire(backlog: BacklogRequest) -> BacklogPrediction:
    """Where both classes are, all wait for a minute; else nobody waits."""
    answer = worked_off(backlog)
    is_mixed = len({request.num_prompt_tokens > 1_000 for request in backlog.requests}) > 1
    for item in answer.requests:
        item.ttft_ms = 60_000.0 if is_mixed else 1.0
    return answer


async def test_long_requests_are_confined_when_sidecars_predict_that_it_is_worth_it() -> None:
    """Until then, all units serve both classes; the admin API says why a unit has moved."""
    engines = [ScriptedEngine(predict_backlog=mixing_is_dire) for _ in range(3)]
    async with crowd(*engines) as made:
        made.send(4, "hello")
        await eventually(lambda: is_waiting(made, "short", 1))
        assert await made.by_pool() == {"u0": None, "u1": None, "u2": None}
        made.send(9, LONG)
        await eventually(made.has_moved)
        shown = await made.pools()
        assert "short" in (await made.by_pool()).values()
        move = shown["moves"][0]
        assert (move["to"], move["controller"]) == ("short", "predictive")
        assert re.fullmatch(r"[12] long units would cost [\d.]+, 3 [\d.]+", move["reason"])
        assert [price["num_long_units"] for price in shown["prices"]] == [1, 2, 3]
        moved = 'astrolabe_pool_moves_total{controller="predictive",to="short"} '
        assert await made.fleet.metric(moved) >= 1
        await eventually(lambda: metric_is(made, 'astrolabe_pool_units{pool="short"} ', 1))


async def test_a_backlog_is_asked_about_as_it_would_be_served() -> None:
    """With the limit, what runs, and no share that is empty."""
    engines = [ScriptedEngine() for _ in range(2)]
    async with crowd(*engines, worker_concurrency_limit=2) as made:
        made.send(6, LONG)
        await eventually(lambda: _were_asked(engines))
        backlogs = [backlog for engine in engines for backlog in engine.backlogs]
        assert {backlog.max_num_seqs for backlog in backlogs} == {2}
        assert all(backlog.requests for backlog in backlogs)
        assert all(len(backlog.sent or ()) <= 2 for backlog in backlogs)
        assert any(len(backlog.sent or ()) == 2 for backlog in backlogs)


async def test_no_questions_without_long_requests() -> None:
    """There is nothing to divide then."""
    engines = [ScriptedEngine() for _ in range(2)]
    async with crowd(*engines) as made:
        made.send(6, "hello")
        await eventually(lambda: is_waiting(made, "short", 4))
        await asyncio.sleep(0.2)
        assert [engine.backlogs for engine in engines] == [[], []]


@pytest.mark.parametrize(
    ("behave", "reason"),
    [
        (hang, "late"),
        (die, "http_500"),
        (overloaded, "http_503"),
        (flood, "malformed"),
        (nan, "malformed"),
        (too_few, "malformed"),
    ],
)
async def test_without_prices_units_move_as_qhap_says(behave: Behaviour, reason: str) -> None:
    """A sidecar that is slow, dead or lies stops nothing; it is counted."""
    engines = [ScriptedEngine(), ScriptedEngine(answer_backlogs=behave)]
    async with crowd(*engines) as made:
        made.send(2, LONG)
        await eventually(made.has_moved)
        move = (await made.pools())["moves"][0]
        assert move["reason"] == "no prices, as qhap: queue_long 0 < 2"
        missing = "astrolabe_backlogs_missing_total"
        labels = f'{{purpose="prices",reason="{reason}",unit="u1"}} '
        # At one of its looks; where the machine is slow, answers are late at others.
        await eventually(lambda: metric_is(made, missing + labels, 1))
        assert await made.fleet.metric("astrolabe_pool_unpriced_total ") >= 1


async def test_a_failing_look_at_the_pools_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is counted; requests are served, and the next one moves units again."""

    def fail(*given: object) -> None:
        raise RuntimeError("unforeseen")

    engines = [ScriptedEngine(predict_backlog=mixing_is_dire) for _ in range(2)]
    async with crowd(*engines) as made:
        with monkeypatch.context() as broken:
            broken.setattr(control_loop, "prospect_of", fail)
            await eventually(lambda: metric_is(made, "astrolabe_pool_control_failures_total ", 3))
        made.send(2, LONG)
        made.send(9, "hello")
        await eventually(made.has_moved)


async def test_a_drained_unit_is_replaced_in_its_pool() -> None:
    """It is no capacity; when it comes back it has its place again."""
    async with crowd(*(ScriptedEngine() for _ in range(3)), pools="static") as made:
        assert await made.by_pool() == {"u0": "short", "u1": "long", "u2": "short"}
        await made.fleet.client.post("/admin/units/u1/drain")
        await eventually(made.has_moved)
        assert await made.by_pool() == {"u0": "long", "u2": "short"}
        assert (await made.pools())["moves"][-1]["reason"] == "a long unit has gone"


async def test_limits_are_derived_from_what_sidecars_predict() -> None:
    """The largest batch that still meets the TPOT goal; a number turns that off again."""

    def slower_with_each(backlog: BacklogRequest) -> BacklogPrediction:
        answer = worked_off(backlog)
        for item in answer.requests:
            item.queue_ms, item.tpot_ms = 0.0, 2.0 * (backlog.max_num_seqs or 0)
        return answer

    engine = ScriptedEngine(predict_backlog=slower_with_each)
    settings = {"worker_concurrency_limit": "auto", "auto_limit_tpot_ms": 40.0}
    async with crowd(engine, control_interval_s=0.01, **settings) as made:
        assert (await made.pools())["worker_concurrency_limit"] == "auto"
        made.send(1, "hello")
        await eventually(lambda: _has_limit(made, 20))
        await made.change("/u0", concurrency_limit=3)
        assert await _has_limit(made, 3)
        await made.change("/u0", concurrency_limit="default")
        await made.change(worker_concurrency_limit=5)
        await asyncio.sleep(0.2)
        assert await _has_limit(made, 5)


async def test_a_threshold_is_learnt() -> None:
    """With 4000 tokens no request would be long; with 2000 the classes are kept apart."""
    engines = [ScriptedEngine(predict_backlog=mixing_is_dire) for _ in range(2)]
    settings = {"long_threshold_tokens": 4_000.0, "learn_threshold": True}
    async with crowd(*engines, control_interval_s=0.02, **settings) as made:
        made.send(4, "hello")
        made.send(6, LONG)
        await eventually(lambda: _is_learnt(made))
        shown = await made.pools()
        assert shown["long_threshold_tokens"] == 2_000.0
        assert shown["queues"]["long"]["length"] > 0


async def test_rules_change_at_run_time() -> None:
    """Each by itself; what waits is classified anew."""
    async with crowd(*(ScriptedEngine() for _ in range(3)), pools="none") as made:
        made.send(3, "hello")
        await eventually(lambda: is_active(made, "u2", 1))
        made.send(2, "hello")
        await eventually(lambda: is_waiting(made, "short", 2))
        await made.change(pools="static", num_long_units=2, stealing="off", queue_order="edf")
        assert await made.by_pool() == {"u0": "short", "u1": "long", "u2": "long"}
        await made.change(long_threshold_tokens=1.0, learn_threshold=True)
        shown = await made.pools()
        assert shown["queues"]["long"]["length"] == 2
        assert shown["queues"]["long"]["oldest_s"] > 0
        chosen = {
            "pools": "static",
            "stealing": "off",
            "num_long_units": 2,
            "long_threshold_tokens": 1.0,
            "learn_threshold": True,
            "queue_order": "edf",
            "worker_concurrency_limit": 1,
        }
        assert {key: shown[key] for key in chosen} == chosen
        await made.change("/u1", pool="short")
        assert (await made.by_pool())["u1"] == "short"
        assert (await made.pools())["moves"][-1]["controller"] == "admin"


async def test_bad_changes_are_refused() -> None:
    """With the key and the value; nothing changes."""
    changes: list[tuple[str, dict[str, Any], int, str]] = [
        ("", {"pools": "best"}, 400, "best"),
        ("", {"stealing": "always"}, 400, "always"),
        ("", {"long_threshold_tokens": 0}, 400, "long_threshold_tokens"),
        ("", {"worker_concurrency_limit": 0}, 400, "worker_concurrency_limit"),
        ("", {"colour": "red"}, 400, "colour"),
        ("/u9", {"pool": "long"}, 404, "u9"),
        ("/u0", {"pool": "middle"}, 400, "middle"),
        ("/u0", {"pool": "long"}, 409, "the last one for short requests"),
        ("/u0", {"concurrency_limit": -1}, 400, "concurrency_limit"),
    ]
    async with crowd(ScriptedEngine(), ScriptedEngine(), pools="static") as made:
        before = await made.pools()
        for path, body, status, message in changes:
            answer = await made.change(path, **body)
            assert (answer.status_code, body) == (status, body)
            assert message in answer.json()["error"]["message"]
        after = await made.pools()
        kept = ("pools", "stealing", "long_threshold_tokens", "worker_concurrency_limit", "moves")
        assert [after[key] for key in kept] == [before[key] for key in kept]


async def _has_limit(made: Crowd, limit: int) -> bool:
    return bool((await made.pools())["units"][0]["concurrency_limit"] == limit)


async def _is_learnt(made: Crowd) -> bool:
    return bool((await made.pools())["long_threshold_tokens"] != 4_000.0)


async def _were_asked(engines: list[ScriptedEngine]) -> bool:
    return all(len(engine.backlogs) > 2 for engine in engines)
