"""The request log, written by a real gateway."""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.app import create_app
from global_scheduler.request_log import MOST_WAITING_CHARACTERS, LoggedRequest, RequestLog
from global_scheduler.settings import GatewaySettings
from tests.global_scheduler.fleet import (
    COMPLETION,
    DONE,
    EVENT,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
)
from wire.length import LengthQuestion

pytestmark = pytest.mark.anyio


def lines_of(file: Path) -> list[dict[str, Any]]:
    """What a log holds."""
    return [msgspec.json.decode(line) for line in file.read_bytes().splitlines()]


async def written(file: Path, count: int) -> list[dict[str, Any]]:
    """A log's lines, once there are so many."""

    async def is_there() -> bool:
        return len(lines_of(file)) >= count

    await eventually(is_there)
    return lines_of(file)


async def chat(running: Fleet, *contents: str, **fields: Any) -> None:
    """One request of a conversation in which user and assistant take turns."""
    messages = [
        {"role": ("user", "assistant")[index % 2], "content": content}
        for index, content in enumerate(contents)
    ]
    answer = await running.client.post(
        "/v1/chat/completions", json={"model": "m", "messages": messages} | fields
    )
    assert answer.status_code == 200


def logged(text: str = "hi") -> LoggedRequest:
    """An entry."""
    return LoggedRequest(
        request_id="r",
        time_s=0.0,
        question=LengthQuestion(text=text, num_prompt_tokens=1),
        opening=text,
        num_output_tokens=1,
        is_exact=True,
    )


async def test_each_answered_request_is_a_line(tmp_path: Path) -> None:
    """With all that an estimator may know of it, and how long its answer got."""
    file = tmp_path / "requests.jsonl"
    async with fleet(ScriptedEngine(), request_log=file) as running:
        before_s = time.time()
        headers = {"x-request-id": "r1"}
        assert (await running.complete(prompt="a 🎉", max_tokens=9, headers=headers)).is_success
        (line,) = await written(file, 1)
    assert before_s - 1 <= line.pop("time_s") <= time.time()
    assert len(line.pop("conversation")) == 24
    assert line.pop("num_prompt_tokens") >= 1
    assert line == {
        "request_id": "r1",
        "text": "a 🎉",
        "context": "",
        "earlier_answer_characters": [],
        "max_tokens": 9,
        "model": "m",
        "num_output_tokens": 3,
        "is_exact": True,
    }


async def test_turns_of_a_conversation_share_its_name(tmp_path: Path) -> None:
    """By which splits keep them together."""
    file = tmp_path / "requests.jsonl"
    async with fleet(ScriptedEngine(), request_log=file) as running:
        await chat(running, "hello")
        await chat(running, "hello", "yes?", "more")
        await chat(running, "something else")
        first, second, third = await written(file, 3)
    assert first["conversation"] == second["conversation"] != third["conversation"]
    assert (second["text"], second["context"]) == ("more", "hello")
    assert second["earlier_answer_characters"] == [4]


async def test_a_stream_without_usage_is_counted_by_its_events(tmp_path: Path) -> None:
    """And says so."""
    file = tmp_path / "requests.jsonl"
    engine = ScriptedEngine(behave=stream_of(EVENT, EVENT, EVENT, DONE))
    async with fleet(engine, request_log=file) as running:
        await running.complete(stream=True)
        (line,) = await written(file, 1)
    assert (line["num_output_tokens"], line["is_exact"]) == (2, False)


async def test_only_single_answers_are_logged(tmp_path: Path) -> None:
    """No failures, no absurd figures, no requests for several answers (their tokens are a sum)."""

    async def fail(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 400, b'{"error":{"message":"no"}}')

    async def lie(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 200, COMPLETION.replace(b":3", b":3000000000"))

    file = tmp_path / "requests.jsonl"
    engine = ScriptedEngine()
    async with fleet(engine, request_log=file) as running:
        await running.complete(prompt="several", n=2)
        engine.behave = fail
        await running.complete(prompt="failed")
        engine.behave = lie
        await running.complete(prompt="absurd")
        assert (await running.client.post("/v1/completions", content=b"\xff")).status_code == 400
        engine.behave = ScriptedEngine.behave
        await running.complete(prompt="one")
        lines = await written(file, 1)
    assert [line["text"] for line in lines] == ["one"]


async def test_nothing_is_logged_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are their users' own."""
    monkeypatch.chdir(tmp_path)
    async with fleet(ScriptedEngine()) as running:
        await running.complete()
    assert not os.listdir(tmp_path)


async def test_what_waits_is_written_when_the_gateway_ends(tmp_path: Path) -> None:
    """Every request that was answered before."""
    file = tmp_path / "requests.jsonl"
    async with fleet(ScriptedEngine(), request_log=file) as running:
        for index in range(50):
            await running.complete(prompt=f"p{index}")
    assert [line["text"] for line in lines_of(file)] == [f"p{index}" for index in range(50)]


async def test_a_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    """After a restart; only its owner may read it."""
    file = tmp_path / "requests.jsonl"
    for _ in range(2):
        async with fleet(ScriptedEngine(), request_log=file) as running:
            await running.complete()
    assert len(lines_of(file)) == 2
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_log_keeps_to_its_size(tmp_path: Path) -> None:
    """Old files go; no line is cut, and all files are private."""
    file = tmp_path / "requests.jsonl"
    losses: list[str] = []
    async with RequestLog(file, max_bytes=2_000, on_loss=losses.append) as log:
        for index in range(200):
            log.add(logged(f"{index} " + "x" * 100))
    files = [tmp_path / name for name in os.listdir(tmp_path)]
    assert len(files) == 10
    assert all(one.stat().st_size <= 2_000 for one in files)
    assert {stat.S_IMODE(one.stat().st_mode) for one in files} == {0o600}
    numbers = sorted(int(line["text"].split()[0]) for one in files for line in lines_of(one))
    assert numbers == list(range(200))[-len(numbers) :]
    assert not losses


async def test_a_slow_disk_loses_lines_but_holds_nobody_up(tmp_path: Path) -> None:
    """What waits is bounded in memory; the losses are in the metrics."""
    file = tmp_path / "pipe"
    os.mkfifo(file)
    reader = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    size = MOST_WAITING_CHARACTERS // 4
    losses: list[str] = []
    with anyio.fail_after(60):
        async with RequestLog(file, max_bytes=1 << 40, on_loss=losses.append) as log:
            for _ in range(10):
                log.add(logged("x" * size))
            assert losses == ["slow_disk"] * 7
            os.close(reader)  # the writes that wait fail, and the thread ends
    assert Counter(losses) == {"slow_disk": 7, "write_failed": 3}


async def test_a_log_goes_on_when_the_disk_has_room_again(tmp_path: Path) -> None:
    """Here it cannot be rotated for a while."""
    file = tmp_path / "requests.jsonl"
    oldest = tmp_path / "requests.jsonl.9"
    oldest.mkdir()
    (tmp_path / "requests.jsonl.8").touch()
    losses: list[str] = []
    async with RequestLog(file, max_bytes=1_000, on_loss=losses.append) as log:
        for index in range(20):
            log.add(logged(str(index)))

        async def is_counted() -> bool:
            return bool(losses)

        await eventually(is_counted)
        oldest.rmdir()
        log.add(logged("last"))
    assert lines_of(file)[-1]["text"] == "last"


async def test_losses_are_in_the_metrics(tmp_path: Path) -> None:
    """Here because the disk is full."""
    async with fleet(ScriptedEngine(), request_log=Path("/dev/full")) as running:
        assert (await running.complete()).is_success

        async def is_counted() -> bool:
            name = 'astrolabe_request_log_lost_total{reason="write_failed"}'
            return await running.metric(name) == 1

        await eventually(is_counted)


def test_a_log_that_cannot_be_opened_is_an_error_at_start(tmp_path: Path) -> None:
    """Which names the file."""
    for path in (tmp_path, tmp_path / "missing" / "requests.jsonl"):
        with pytest.raises(OSError, match=str(path)):
            create_app(GatewaySettings(request_log=path))
