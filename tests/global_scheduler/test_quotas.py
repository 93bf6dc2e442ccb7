"""Quotas over real HTTP: headers, refusals, what is settled, and stores that fail."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from global_scheduler.app import create_app
from global_scheduler.quotas.keys import key_id
from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    SSE_HEADERS,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    stream_of,
    whole,
)
from tests.global_scheduler.redis_server import redis_server
from wire.model_config import ConfigError

pytestmark = pytest.mark.anyio

KEY = {"authorization": "Bearer sk-a"}
USAGE = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":40,"completion_tokens":60}}\n\n'


@asynccontextmanager
async def limited(
    *engines: ScriptedEngine, quota: list[str], store: Path, **settings: Any
) -> AsyncIterator[Fleet]:
    """A fleet whose uses are counted in a file of the test's own."""
    settings |= {"quota": quota, "quota_store": store / "quotas.sqlite"}
    defaults: dict[str, Any] = {"policy": "round_robin", "quota_deadline_ms": 5000.0}
    async with fleet(*(engines or [ScriptedEngine()]), **(defaults | settings)) as running:
        yield running


async def used(running: Fleet, key: str = "sk-a") -> tuple[int, int]:
    """Requests and tokens that count for a key."""
    answer = (await running.client.get("/admin/quotas")).json()
    digest = key_id(b"Bearer " + key.encode())
    (found,) = [entry for entry in answer["keys"] if entry["key"] == digest]
    return found["num_requests"], found["num_tokens"]


async def settled(running: Fleet, num_requests: int, num_tokens: int) -> None:
    """Wait until this is what counts; the store is told a little after the client."""

    async def is_so() -> bool:
        return await used(running) == (num_requests, num_tokens)

    await eventually(is_so)


async def test_every_answer_tells_what_is_left(tmp_path: Path) -> None:
    """Of requests and of tokens, those reserved included; a key without a quota is told nothing."""
    async with limited(quota=["sk-a=5/100000"], store=tmp_path) as running:
        first = await running.complete(headers=KEY, max_tokens=50)
        second = await running.complete(headers=KEY, max_tokens=50)
        other = await running.complete(headers={"authorization": "Bearer sk-b"})
        missing = await running.complete(headers=KEY, model="unknown")
    assert first.headers["x-ratelimit-limit-requests"] == "5"
    assert first.headers["x-ratelimit-remaining-requests"] == "4"
    assert first.headers["x-ratelimit-limit-tokens"] == "100000"
    assert 99_900 < int(first.headers["x-ratelimit-remaining-tokens"]) < 100_000
    assert first.headers["x-ratelimit-reset-requests"] in {f"1m{s}s" for s in range(6)}
    assert second.headers["x-ratelimit-remaining-requests"] == "3"
    assert not [name for name in other.headers if name.startswith("x-ratelimit")]
    assert missing.status_code == 404
    assert missing.headers["x-ratelimit-remaining-requests"] == "2"


async def test_what_is_over_the_quota_is_refused_as_openai_does(tmp_path: Path) -> None:
    """429, its JSON, and when to try again; the engine never hears of it."""
    engine = ScriptedEngine()
    async with limited(engine, quota=["default=2/-"], store=tmp_path) as running:
        answers = [await running.complete(headers=KEY) for _ in range(3)]
        anonymous = await running.complete()
        rejected = await running.metric('astrolabe_quota_rejected_total{limit="requests"} ')
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    refused = answers[-1]
    assert refused.json()["error"] == {
        "message": "the key has used 2 of its 2 requests a minute",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    assert 55 <= int(refused.headers["retry-after"]) <= 65
    assert refused.headers["x-astrolabe-rejected"] == "quota"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert anonymous.status_code == 200
    assert (len(engine.requests), rejected) == (3, 1.0)


async def test_tokens_are_reserved_and_then_settled(tmp_path: Path) -> None:
    """A request that might use too much waits outside until others have shown what they use."""
    async with limited(quota=["sk-a=-/1000"], store=tmp_path, policy="round_robin") as running:
        answer = await running.complete(headers=KEY, prompt="x" * 1600, max_tokens=500)
        assert 1000 - 400 - 500 <= int(answer.headers["x-ratelimit-remaining-tokens"]) < 600
        await settled(running, 1, 10)  # as the engine's usage figure says
        too_large = await running.complete(headers=KEY, prompt="x" * 40_000)
        assert too_large.status_code == 429
        assert "tokens, and needs" in too_large.json()["error"]["message"]
        await settled(running, 1, 10)


@pytest.mark.parametrize(
    ("behave", "num_tokens"),
    [
        (stream_of(EVENT, EVENT, USAGE, DONE), 100),  # what the usage event says
        (stream_of(EVENT, EVENT, EVENT, DONE), 7 + 2),  # a prompt as counted, an event a token
    ],
)
async def test_streams_are_settled_by_what_came_back(
    tmp_path: Path, behave: Any, num_tokens: int
) -> None:
    """The prompt's tokens and those of the answer."""
    async with limited(
        ScriptedEngine(behave=behave), quota=["sk-a=-/100000"], store=tmp_path
    ) as running:
        await running.complete(headers=KEY, prompt="x" * 28, stream=True, max_tokens=400)
        await settled(running, 1, num_tokens)


async def test_a_client_that_leaves_pays_for_what_it_got(tmp_path: Path) -> None:
    """Its prompt and the tokens that had streamed back."""

    async def endless(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    engine = ScriptedEngine(behave=endless)
    async with limited(engine, quota=["sk-a=-/100000"], store=tmp_path) as running:
        body = {"model": "m", "prompt": "x" * 28, "stream": True, "max_tokens": 400}
        async with running.client.stream("POST", "/v1/completions", json=body, headers=KEY) as got:
            await got.aiter_bytes().__anext__()
            assert (await used(running))[1] > 100
        await settled(running, 1, 7 + 1)


async def test_a_request_without_an_answer_costs_no_tokens(tmp_path: Path) -> None:
    """Neither one that no unit could take nor one that an engine refused; each is a request."""

    async def refuse(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 400, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    engine = ScriptedEngine(behave=refuse)
    async with limited(engine, quota=["sk-a=-/100000"], store=tmp_path) as running:
        assert (await running.complete(headers=KEY)).status_code == 400
        assert (await running.complete(headers=KEY, model="unknown")).status_code == 404
        await settled(running, 2, 0)


async def test_other_paths_count_as_requests(tmp_path: Path) -> None:
    """What the gateway passes on unread cannot be used to get around a quota."""
    async with limited(quota=["sk-a=2/-"], store=tmp_path) as running:
        statuses = [
            (await running.client.post("/v1/embeddings", json={"model": "m"}, headers=KEY))
            for _ in range(3)
        ]
        models = await running.client.get("/v1/models", headers=KEY)
    assert [answer.status_code for answer in statuses] == [200, 200, 429]
    assert models.status_code == 200


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_gateways_share_their_quotas(tmp_path: Path, kind: str) -> None:
    """Together they admit what one would."""
    with redis_server(tmp_path) as (url, _):
        shared: dict[str, Any] = {"redis_url": url} if kind == "redis" else {}
        quota = ["sk-a=9/-"]
        async with (
            limited(quota=quota, store=tmp_path, **shared) as one,
            limited(quota=quota, store=tmp_path, **shared) as other,
        ):
            statuses: list[int] = []

            async def ask(running: Fleet) -> None:
                statuses.append((await running.complete(headers=KEY)).status_code)

            async with anyio.create_task_group() as tasks:
                for _ in range(10):
                    tasks.start_soon(ask, one)
                    tasks.start_soon(ask, other)
            assert (await one.client.get("/admin/quotas")).json()["store"] == kind
            assert (await used(one))[0] == (await used(other))[0] == 9
    assert (statuses.count(200), statuses.count(429)) == (9, 11)


async def test_a_store_that_hangs_lets_requests_in_uncounted(tmp_path: Path) -> None:
    """After the deadline once, then at once for a while; and it is counted."""
    async with limited(quota=["sk-a=1/-"], store=tmp_path, quota_deadline_ms=200.0) as running:
        holder = sqlite3.connect(tmp_path / "quotas.sqlite", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        answers = [await running.complete(headers=KEY) for _ in range(3)]
        failed = await running.metric('astrolabe_quota_uncounted_total{reason="failed"} ')
        paused = await running.metric('astrolabe_quota_uncounted_total{reason="paused"} ')
        holder.close()

        async def is_counted_again() -> bool:
            return (await running.complete(headers=KEY)).status_code == 429

        await eventually(is_counted_again)
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    assert (failed, paused) == (1.0, 2.0)
    assert not [name for name in answers[0].headers if name.startswith("x-ratelimit")]


async def test_closed_quotas_refuse_while_the_store_is_away(tmp_path: Path) -> None:
    """For those who would rather not serve than not count."""
    with redis_server(tmp_path) as (url, server):
        async with limited(
            quota=["sk-a=5/-"], store=tmp_path, redis_url=url, quota_when_unknown="closed"
        ) as running:
            assert (await running.complete(headers=KEY)).status_code == 200
            server.kill()
            server.wait()
            refused = await running.complete(headers=KEY)
            shown = await running.client.get("/admin/quotas")
            unlimited = await running.complete()
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "quota_store")
    assert refused.headers["retry-after"] == "1"
    assert shown.status_code == 503
    assert unlimited.status_code == 200


async def test_quotas_change_while_the_gateway_runs(tmp_path: Path) -> None:
    """For one key, by its digest, and for all others; keys themselves are never shown."""
    async with fleet(ScriptedEngine(behave=whole), policy="round_robin") as running:

        async def change(**body: Any) -> httpx.Response:
            return await running.client.put("/admin/quotas", json=body)

        assert (await change(key="default", requests_per_minute=1)).status_code == 200
        statuses = [(await running.complete(headers=KEY)).status_code for _ in range(2)]
        shown = (await change(key=key_id(b"Bearer sk-a"), requests_per_minute=2)).json()
        statuses += [(await running.complete(headers=KEY)).status_code for _ in range(2)]
        await change(key=key_id(b"Bearer sk-a"))
        await change(key="default")
        statuses.append((await running.complete(headers=KEY)).status_code)
        wrong = await change(key="sk-a", requests_per_minute=0)
    assert statuses == [200, 429, 200, 429, 200]
    assert shown["default"] == {"requests_per_minute": 1, "tokens_per_minute": None}
    (entry,) = shown["keys"]
    assert (entry["key"], entry["requests_per_minute"]) == (key_id(b"Bearer sk-a"), 2)
    assert "sk-a" not in str(shown)
    assert wrong.status_code == 400


async def test_a_store_that_cannot_be_used_stops_the_start(tmp_path: Path) -> None:
    """With its name, before anything is served."""
    with pytest.raises(ConfigError, match=r"quotas: .*: "):
        create_app(GatewaySettings(quota=[SecretStr("default=1/1")], quota_store=tmp_path))
    with pytest.raises(ConfigError, match="scheme"):
        create_app(GatewaySettings(redis_url=SecretStr("postgres://x")))


def test_by_default_uses_are_counted_where_state_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway without quotas writes nothing."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert GatewaySettings().quota_file is None
    monkeypatch.setenv("ASTROLABE_GATEWAY_QUOTA", "a=1/2,default=3/-")
    given = GatewaySettings()
    assert [text.get_secret_value() for text in given.quota] == ["a=1/2", "default=3/-"]
    assert given.quota_file == tmp_path / "astrolabe" / "quotas.sqlite"
