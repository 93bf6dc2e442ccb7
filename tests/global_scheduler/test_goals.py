"""Latency goals: which unit is chosen for them, and what happens when none can meet them."""

from __future__ import annotations

import asyncio
import re

import pytest
from pydantic import ValidationError
from starlette.types import Receive, Scope, Send

from global_scheduler.settings import GatewaySettings
from global_scheduler.slo import parse_goal_defaults
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    ScriptedEngine,
    fleet,
    predicting,
    reply,
    stream_of,
)
from wire.prediction import Slo


def unit(ttft_ms: float, e2e_ms: float, tpot_ms: float = 1.0) -> ScriptedEngine:
    """A unit for which its sidecar predicts this."""
    return ScriptedEngine(
        answer_questions=predicting(ttft_ms=ttft_ms, e2e_ms=e2e_ms, tpot_ms=tpot_ms)
    )


pytestmark = pytest.mark.anyio
GOAL = {"x-slo-ttft-ms": "500"}
DISTANT_GOAL = {"x-slo-ttft-ms": "500000"}
"""For what a unit is predicted to meet: the time until it is chosen counts, too."""
UNIMPORTANT = {"x-astrolabe-priority": "-1"}


@pytest.mark.parametrize(
    ("headroom", "chosen"), [("policy", "u1"), ("least", "u2"), ("most", "u3")]
)
async def test_a_unit_that_meets_the_goals_is_chosen(headroom: str, chosen: str) -> None:
    """u0 would end first and start too late; of the others the setting says which."""
    units = [unit(9e5, 1e6), unit(1e5, 2e6), unit(3e5, 3e6), unit(5e4, 4e6)]
    policy = "min_new_request_latency"
    async with fleet(*units, pools="none", policy=policy, slo_headroom=headroom) as running:
        assert (await running.complete()).headers["x-astrolabe-unit"] == "u0"
        answer = await running.complete(headers=DISTANT_GOAL)
        assert answer.headers["x-astrolabe-unit"] == chosen
        assert "3 of them predicted to meet" in (await running.decisions())[-1]["reason"]


async def test_goals_of_both_kinds_must_hold() -> None:
    """A unit that is quick to start and slow to go on misses the goal for each token."""
    units = [unit(1e4, 1e5, tpot_ms=80.0), unit(3e5, 9e5, tpot_ms=20.0)]
    async with fleet(*units, pools="none") as running:
        answer = await running.complete(headers=DISTANT_GOAL | {"x-slo-tpot-ms": "50"})
        assert answer.headers["x-astrolabe-unit"] == "u1"


@pytest.mark.parametrize(
    ("miss", "headers", "status"),
    [
        ("shed", {}, 200),
        ("shed", UNIMPORTANT, 429),
        ("best_effort", UNIMPORTANT, 200),
        ("wait", {}, 200),
    ],
)
async def test_what_becomes_of_a_goal_that_cannot_be_met(
    miss: str, headers: dict[str, str], status: int
) -> None:
    """Shed only below priority zero; wait no longer than the goal could still be met."""
    async with fleet(unit(900.0, 1000.0), slo_miss=miss) as running:
        answer = await running.complete(headers=GOAL | headers)
        assert answer.status_code == status
        if status == 429:
            assert answer.headers["x-astrolabe-rejected"] == "slo"
            assert answer.headers["retry-after"] == "1"
            told = re.search(r"first token in (\S+) s", answer.json()["error"]["message"])
            assert told is not None
            assert float(told[1]) >= 0.9  # and the time that the forecast took to come
            shed = 'astrolabe_rejected_requests_total{class="short",reason="slo"} '
            assert await running.metric(shed) == 1
        else:
            assert (float(answer.headers["x-astrolabe-waited-ms"]) >= 450) == (miss == "wait")
            assert "none is predicted to meet" in (await running.decisions())[-1]["reason"]


async def test_waiting_ends_when_a_unit_can_meet_the_goal() -> None:
    """A forecast that gets better lets the request go."""
    engine = unit(90_000.0, 99_000.0)
    async with fleet(engine, slo_miss="wait") as running:
        sent = asyncio.ensure_future(running.complete(headers={"x-slo-ttft-ms": "60000"}))
        await asyncio.sleep(0.3)
        assert not sent.done()
        engine.answer_questions = predicting(ttft_ms=20.0, e2e_ms=40.0)
        answer = await sent
        assert float(answer.headers["x-astrolabe-waited-ms"]) < 50_000
        assert answer.status_code == 200


async def test_a_sidecar_that_does_not_answer_sheds_nobody() -> None:
    """Without a forecast there is no reason to refuse."""

    async def refuse(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 503, b"{}")

    async with fleet(ScriptedEngine(answer_questions=refuse)) as running:
        answer = await running.complete(headers=GOAL | UNIMPORTANT)
        assert answer.status_code == 200


async def test_models_have_goals_of_their_own() -> None:
    """Where the headers name none; one header leaves the other goal as it is."""
    engine = unit(900.0, 1000.0)
    async with fleet(engine, slo=["m=500,-", "*=-,20"]) as running:
        assert (await running.complete(headers=UNIMPORTANT)).status_code == 429
        easy = UNIMPORTANT | {"x-slo-ttft-ms": "2000"}
        assert (await running.complete(headers=easy)).status_code == 200


async def test_goodput_is_counted_by_class() -> None:
    """A stream that begins in time is good; one that does not is a violation."""

    async def late(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.1)
        await stream_of(EVENT, EVENT, DONE)(scope, body, receive, send)

    async with fleet(ScriptedEngine(behave=late), slo_miss="best_effort") as running:
        for goal_ms in ("60000", "1"):
            await running.complete(stream=True, headers={"x-slo-ttft-ms": goal_ms})
        line = 'astrolabe_slo_requests_total{{class="short",goal="ttft",outcome="{}"}} '
        assert await running.metric(line.format("met")) == 1
        assert await running.metric(line.format("missed")) == 1
        assert await running.metric('astrolabe_goodput_requests_total{class="short"} ') == 1


async def test_rules_can_be_switched_while_it_runs() -> None:
    """Through the admin API."""
    async with fleet(unit(900.0, 1000.0)) as running:
        change = {"slo_miss": "best_effort", "slo_headroom": "most", "shed_below": 5}
        shown = (await running.client.put("/admin/policy", json=change)).json()
        assert {name: shown[name] for name in change} == change
        assert (await running.complete(headers=GOAL | UNIMPORTANT)).status_code == 200
        for wrong in ({"slo_miss": "pray"}, {"slo": ["m=soon"]}):
            bad = await running.client.put("/admin/policy", json=wrong)
            assert bad.status_code == 400
        change = {"slo_miss": "shed", "shed_below": 0, "slo": ["m=500"]}
        shown = (await running.client.put("/admin/policy", json=change)).json()
        assert shown["slo"] == {"m": {"ttft_ms": 500.0, "tpot_ms": None}}
        assert (await running.complete(headers=UNIMPORTANT)).status_code == 429


def test_default_goals_are_read_strictly() -> None:
    """Each model once, times in milliseconds, - for no goal."""
    assert parse_goal_defaults(["org/m=200,30", "*=-,20", "x=100"]) == {
        "org/m": Slo(ttft_ms=200.0, tpot_ms=30.0),
        "*": Slo(tpot_ms=20.0),
        "x": Slo(ttft_ms=100.0),
    }


@pytest.mark.parametrize("text", ["m", "=5", "m=", "m=fast", "m=-5", "m=1,nan", "m=0"])
def test_default_goals_that_make_no_sense_are_refused(text: str) -> None:
    """The message names the text."""
    with pytest.raises(ValidationError, match="slo"):
        GatewaySettings(slo=[text])


def test_repeated_goal_flags_keep_their_commas() -> None:
    """The command line joins repeated flags by commas, and a goal may have one of its own."""
    settings = GatewaySettings(slo="a=100,20,b=300,*=-,50")  # type: ignore[arg-type]
    assert settings.slo == ["a=100,20", "b=300", "*=-,50"]
