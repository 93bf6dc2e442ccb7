"""Absurd counts cost who sends them an error, and nobody else a quota."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from global_scheduler.bodies import MOST_ANSWERS, parse_chat, parse_completion
from global_scheduler.errors import BadRequest
from global_scheduler.quotas.base import Judgement, Reserve, Settle, StoreFailed
from global_scheduler.quotas.keys import parse_quotas
from global_scheduler.quotas.shared_calls import SharedCalls
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.quotas.window import Quota
from global_scheduler.settings import GatewaySettings
from global_scheduler.units import parse_unit
from tests.global_scheduler.fleet import Behaviour, Fleet, ScriptedEngine, fleet, reply, whole
from wire.prediction import MAX_TOKENS

pytestmark = pytest.mark.anyio

ABSURD = 10**20
QUOTA_KEY = ', "key": "default"'
UNLIMITED = Quota(None, None)


async def answers_of_the_innocent(running: Fleet, number: int) -> list[int]:
    """Statuses of a client that is allowed two requests a minute."""
    headers = {"authorization": "Bearer innocent"}
    return [(await running.complete(headers=headers)).status_code for _ in range(number)]


@pytest.mark.parametrize("workers", [1, 2])
async def test_an_absurd_count_switches_no_quota_off(tmp_path: Path, workers: int) -> None:
    """The innocent is held to two requests while another client asks for 1e20 answers."""
    store = tmp_path / "quotas.sqlite"
    async with fleet(
        ScriptedEngine(),
        quota=["innocent=2/-", "guilty=100/-"],
        quota_store=store,
        quota_deadline_ms=60_000.0,
        workers=workers,
    ) as running:
        assert await answers_of_the_innocent(running, 2) == [200, 200]
        for key, value in (("n", ABSURD), ("best_of", ABSURD), ("max_tokens", ABSURD)):
            refused = await running.complete(
                **{key: value}, headers={"authorization": "Bearer guilty"}
            )
            assert await answers_of_the_innocent(running, 1) == [429]
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == key
            assert str(value) in refused.json()["error"]["message"]
        assert "astrolabe_quota_uncounted_total{" not in (await running.client.get("/metrics")).text


def claiming(num_tokens: int) -> Behaviour:
    """An engine that says that an answer took so many tokens, unless it is asked nicely."""

    async def behave(scope: object, body: bytes, receive: object, send: object) -> None:
        usage = {"prompt_tokens": num_tokens, "completion_tokens": num_tokens}
        is_guilty = json.loads(body)["prompt"] == "lie"
        lie = json.dumps({"id": "c", "choices": [], "usage": usage}).encode()
        if is_guilty:
            await reply(send, 200, lie)  # type: ignore[arg-type]
        else:
            await whole(scope, body, receive, send)  # type: ignore[arg-type]

    return behave


@pytest.mark.parametrize("num_tokens", [2**62, -(2**62), 10**19])
async def test_an_engine_that_lies_about_tokens_switches_no_quota_off(
    tmp_path: Path, num_tokens: int
) -> None:
    """What it claims to have used is bounded before the store is told."""
    async with fleet(
        ScriptedEngine(claiming(num_tokens)),
        quota=["innocent=2/-", "guilty=100/-"],
        quota_store=tmp_path / "quotas.sqlite",
        quota_deadline_ms=60_000.0,
    ) as running:
        assert await answers_of_the_innocent(running, 2) == [200, 200]
        headers = {"authorization": "Bearer guilty"}
        told = await running.complete(prompt="lie", headers=headers)
        assert told.status_code == 200
        assert await answers_of_the_innocent(running, 2) == [429, 429]
        shown = (await running.client.get("/admin/quotas")).json()
        assert all(0 <= entry["num_tokens"] <= 10**12 for entry in shown["keys"])


@pytest.mark.parametrize(
    ("field", "most"),
    [
        ("n", MOST_ANSWERS),
        ("best_of", MOST_ANSWERS),
        ("max_tokens", MAX_TOKENS),
        ("max_completion_tokens", MAX_TOKENS),
    ],
)
def test_every_count_has_a_bound(field: str, most: int) -> None:
    """The largest is taken, one more is refused by key and value; so is one that is too small."""
    for parse, body in (
        (parse_completion, {"prompt": "x"}),
        (parse_chat, {"messages": [{"role": "user", "content": "x"}]}),
    ):
        parse(json.dumps(body | {field: most}).encode())
        for value in (most + 1, 2**63, 0, -1):
            with pytest.raises(BadRequest, match=f"{field} .*got {value}") as refused:
                parse(json.dumps(body | {field: value}).encode())
            assert refused.value.param == field


def test_token_ids_fit_an_integer() -> None:
    """One that does not cannot be told to the process that decides."""
    for prompt in ([2**63], [[1, -(2**63) - 1]]):
        with pytest.raises(BadRequest) as refused:
            parse_completion(json.dumps({"prompt": prompt}).encode())
        assert str(refused.value.param).startswith("prompt[0]")


async def test_a_call_that_a_bug_ends_is_no_failure_of_the_store() -> None:
    """Who shares it is counted all the same; who caused it learns what it was."""
    store = SqliteStore(None, lambda: 1e9, 1.0)
    failures: list[StoreFailed] = []
    calls = SharedCalls(store, deadline_s=60.0, on_failure=failures.append)
    calls.settle(Settle("guilty", 200_000_000, ABSURD))
    waiting = [
        calls.reserve(Reserve(key, UNLIMITED, num_tokens))
        for key, num_tokens in (("innocent", 5), ("guilty", ABSURD), ("innocent", 5))
    ]
    first, guilty, second = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(first, Judgement)
    assert isinstance(second, Judgement)
    assert (first.usage.num_tokens, second.usage.num_tokens) == (5, 10)
    assert isinstance(guilty, OverflowError)
    assert failures == []
    await calls.close()
    await store.close()


NUMBERS = sorted(
    name
    for name, field in GatewaySettings.model_fields.items()
    if re.search(r"\b(int|float)\b", str(field.annotation))
)


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e13", str(2**63), "9" * 5000])
def test_no_setting_is_without_end(text: str) -> None:
    """Whatever it counts, it is refused by its name before the gateway starts."""
    assert len(NUMBERS) > 30
    for name in NUMBERS:
        flag = f"--{name.replace('_', '-')}={text}"
        with pytest.raises(ValidationError) as refused:
            CliApp.run(GatewaySettings, cli_args=[flag])
        assert {error["loc"][0] for error in refused.value.errors()} == {name}


def test_no_limit_of_a_unit_is_without_end() -> None:
    """Nor one that Python would not read."""
    for limit in ("9" * 5000, str(2**63)):
        with pytest.raises(BadRequest, match="must look like"):
            parse_unit(f"a@{limit}=http://127.0.0.1:1")


@pytest.mark.parametrize("limits", ["9" * 5000, "1000000000001/-", "-/9223372036854775808"])
def test_no_quota_is_without_end(limits: str) -> None:
    """Its parser says what is wrong with it."""
    with pytest.raises(BadRequest, match="--quota"):
        parse_quotas([f"k={limits if '/' in limits else limits + '/-'}"])


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/admin/policy", "num_query_predictors"),
        ("/admin/policy", "hold_above_ms"),
        ("/admin/policy", "shed_below"),
        ("/admin/pools", "max_queue_age_s"),
        ("/admin/pools", "long_threshold_tokens"),
        ("/admin/provisioning", "limit_ms"),
        ("/admin/quotas", "tokens_per_minute"),
    ],
)
async def test_no_change_of_the_running_gateway_is_without_end(path: str, field: str) -> None:
    """It is refused, and what there is can still be shown."""
    async with fleet(ScriptedEngine()) as running:
        before = (await running.client.get(path)).json()
        for number in ("1e400", "-1e400", "9223372036854775808"):
            body = f'{{"{field}": {number}{QUOTA_KEY if path.endswith("quotas") else ""}}}'
            headers = {"content-type": "application/json"}
            answer = await running.client.put(path, content=body, headers=headers)
            assert answer.status_code == 400, (number, answer.text)
            assert field in answer.json()["error"]["message"]
        assert (await running.client.get(path)).json() == before
