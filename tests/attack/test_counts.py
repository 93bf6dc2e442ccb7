"""Absurd counts cost who sends them an error, and nobody else a quota."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from global_scheduler.bodies import MOST_ANSWERS, parse_chat, parse_completion
from global_scheduler.errors import BadRequest
from global_scheduler.quotas.base import Judgement, Reserve, Settle, StoreFailed
from global_scheduler.quotas.shared_calls import SharedCalls
from global_scheduler.quotas.sqlite_store import SqliteStore
from global_scheduler.quotas.window import Quota
from tests.global_scheduler.fleet import Behaviour, Fleet, ScriptedEngine, fleet, reply, whole
from wire.prediction import MAX_TOKENS

pytestmark = pytest.mark.anyio

ABSURD = 10**20
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
