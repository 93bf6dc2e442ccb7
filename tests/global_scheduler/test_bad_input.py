"""Bad input gets an OpenAI-style error with the right status, and leaves no trace."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import ScriptedEngine, fleet

pytestmark = pytest.mark.anyio
LONE_SURROGATE = "\ud800"
"""Half a character, which JSON can spell and UTF-8 cannot hold."""


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/v1/completions", b'{"model":', 400, None),
        ("/v1/completions", b"", 400, None),
        ("/v1/completions", b"\x80\x81", 400, None),
        ("/v1/completions", b'{"model":"m"}', 400, "prompt"),
        ("/v1/completions", b'{"model":"m","prompt":"p","max_tokens":-5}', 400, "max_tokens"),
        ("/v1/completions", b'{"model":"nope","prompt":"p"}', 404, "model"),
        ("/v1/chat/completions", b'{"model":"m","messages":"hi"}', 400, "messages"),
        ("/v1/chat/completions", b'{"model":"m","messages":[]}', 400, "messages"),
        ("/v1/../metrics", b"{}", 404, None),
    ],
)
async def test_bad_requests(path: str, body: bytes, status: int, param: str | None) -> None:
    """No bad request reaches an engine, and the next good one is answered."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        url = running.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        answer_head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(answer_head.split("content-length: ")[1].split("\r\n")[0])
        error = json.loads(await reader.readexactly(length))["error"]
        writer.close()
        assert answer_head.startswith(f"http/1.1 {status}")
        assert error["param"] == param
        assert error["message"]
        assert engine.requests == []
        assert (await running.complete()).status_code == 200


async def test_a_prompt_over_the_limit_is_a_413() -> None:
    """5 MB against the default limit of 4 MiB; with and without a declared length."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        body = json.dumps({"model": "m", "prompt": "x" * 5_000_000}).encode()
        assert (await running.client.post("/v1/completions", content=body)).status_code == 413

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65536):
                yield body[start : start + 65536]

        answer = await running.client.post("/v1/completions", content=chunks())
        assert answer.status_code == 413
        assert "4194304" in answer.json()["error"]["message"]
        assert engine.requests == []
        assert (await running.complete()).status_code == 200


async def test_a_body_that_never_ends_is_cut_off() -> None:
    """A client cannot make the gateway read for ever."""
    async with fleet(ScriptedEngine(), max_body_bytes=1000) as running:
        url = running.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for _ in range(20):
            writer.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        assert b" 413 " in await asyncio.wait_for(reader.readline(), 60)
        writer.close()


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer wrong", "Basic right", "right"])
async def test_a_wrong_key_is_a_401(header: str) -> None:
    """Only the configured key opens the gateway, and it is not shown to the engine."""
    engine = ScriptedEngine()
    async with fleet(engine, api_key=["right"], engine_api_key="engine") as running:
        answer = await running.complete(headers={"authorization": header})
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        good = await running.complete(headers={"authorization": "Bearer right"})
        assert good.status_code == 200
        assert [headers["authorization"] for headers, _ in engine.requests] == ["Bearer engine"]


async def test_hostile_request_ids_are_replaced() -> None:
    """An id that could break a log line or a header is not passed on."""
    engine = ScriptedEngine()
    async with fleet(engine) as running:
        for bad in ("a b", "x" * 200, "{}"):
            answer = await running.complete(headers={"x-request-id": bad})
            assert answer.headers["x-request-id"] != bad
            assert engine.requests[-1][0]["x-request-id"] == answer.headers["x-request-id"]


async def test_the_admin_api_shows_and_changes_the_fleet() -> None:
    """Register, drain, take back, remove; each change counts from the next request."""
    first, second = ScriptedEngine(), ScriptedEngine()
    async with fleet(first, second) as running:
        client = running.client
        engine_url = (await client.get("/admin/units")).json()[1]["engine_url"]
        await client.post("/admin/units/u0/drain")
        await client.delete("/admin/units/u1")
        assert (await running.complete()).status_code == 503
        added = await client.post("/admin/units", json={"name": "new", "engine_url": engine_url})
        assert added.json()["healthy"]
        answer = await running.complete()
        assert answer.headers["x-astrolabe-unit"] == "new"
        assert answer.headers["x-astrolabe-fallback"] == "least_outstanding"
        await client.post("/admin/units/u0/drain?off=true")
        await client.delete("/admin/units/new")
        assert (await running.complete()).headers["x-astrolabe-unit"] == "u0"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "/admin/policy", {"policy": "best"}, 400),
        ("PUT", "/admin/policy", {"polcy": "random"}, 400),
        ("PUT", "/admin/policy", {"num_query_predictors": -1}, 400),
        ("PUT", "/admin/policy", {"slo": [f"{LONE_SURROGATE}=500"]}, 400),
        ("POST", "/admin/units", {"name": "u0", "engine_url": "http://h"}, 409),
        ("POST", "/admin/units", {"name": "x", "engine_url": "file:///etc"}, 400),
        ("POST", "/admin/units", {"name": "été", "engine_url": "http://h"}, 400),
        ("POST", "/admin/units", {"name": LONE_SURROGATE, "engine_url": "http://h"}, 400),
        ("POST", "/admin/units", {"name": "x", "engine_url": f"http://{LONE_SURROGATE}"}, 400),
        (
            *("POST", "/admin/units"),
            {"name": "x", "engine_url": "http://h", "predictor_url": f"http://h/{LONE_SURROGATE}"},
            400,
        ),
        ("DELETE", "/admin/units/nope", None, 404),
        ("GET", "/admin/decisions?limit=0", None, 400),
        ("GET", "/nowhere", None, 404),
    ],
)
async def test_bad_admin_requests(
    method: str, path: str, body: dict[str, object] | None, status: int
) -> None:
    """The same error format as the OpenAI API."""
    async with fleet(ScriptedEngine()) as running:
        json_of_ascii = {"content-type": "application/json"}
        answer = await running.client.request(
            method, path, content=json.dumps(body), headers=json_of_ascii
        )
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        for shown in ("units", "policy", "settings"):
            assert (await running.client.get(f"/admin/{shown}")).status_code == 200


@pytest.mark.parametrize(
    ("host", "token", "header", "status"),
    [
        ("127.0.0.1", None, None, 200),
        ("0.0.0.0", None, None, 403),
        ("0.0.0.0", "secret", None, 401),
        ("0.0.0.0", "secret", "Bearer wrong", 401),
        ("0.0.0.0", "secret", "Bearer secret", 200),
        ("127.0.0.1", "secret", None, 401),
    ],
)
async def test_the_admin_api_is_guarded(
    host: str, token: str | None, header: str | None, status: int
) -> None:
    """Without a token it is open to loopback only."""
    async with fleet(ScriptedEngine(), host=host, admin_token=token) as running:
        headers = {"authorization": header} if header else {}
        for path in ("/admin/units", "/admin/policy", "/admin/decisions", "/admin/settings"):
            assert (await running.client.get(path, headers=headers)).status_code == status
        assert (await running.client.get("/health")).status_code == 200


async def test_what_the_gateway_was_started_with_is_shown_without_its_secrets() -> None:
    """By the settings' names."""
    async with fleet(ScriptedEngine(), api_key=["sesame"], queue_order="sjf") as running:
        shown = await running.client.get("/admin/settings")
    assert shown.json()["queue_order"] == "sjf"
    assert "api_key" not in shown.json()
    assert "sesame" not in shown.text


def test_a_configuration_that_cannot_be_used_is_refused_before_serving(tmp_path: Path) -> None:
    """The command ends with status 2 and names what is wrong."""
    started = {}
    for flag, value, words in (
        ("--tokenizer", str(tmp_path / "none"), "no tokenizer at"),
        ("--unit", "nonsense", "'nonsense' must look like"),
        ("--unit", "été=http://h", "unit name 'été' must be ASCII"),
        ("--hosts", str(tmp_path / "none.json"), "none.json"),
        ("--port", "99999", "--port"),
    ):
        command = [sys.executable, "-m", "global_scheduler", flag, value]
        started[words] = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for words, process in started.items():
        _, said = process.communicate(timeout=240)
        assert process.returncode == 2
        assert words in said
        assert "Traceback" not in said


def test_settings_refuse_what_they_do_not_know() -> None:
    """A misspelt option is named."""
    with pytest.raises(ValueError, match="polcy"):
        GatewaySettings(**{"polcy": "random"})  # type: ignore[arg-type]
