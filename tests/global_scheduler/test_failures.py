"""Engines that die, hang or refuse, and clients that leave: nothing is lost, nothing leaks."""

import asyncio

import anyio
import httpx
import openai
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.exchange import ClientGone, Interruptible
from tests.global_scheduler.fleet import (
    DONE,
    EVENT,
    SSE_HEADERS,
    Behaviour,
    Broken,
    Fleet,
    ScriptedEngine,
    eventually,
    fleet,
    reply,
    stream_of,
    whole,
)

pytestmark = pytest.mark.anyio

FAST, SLOW = (lambda batch: 1.0), (lambda batch: 500.0)


async def _unavailable(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await reply(send, 503, b'{"error":{"message":"queue full"}}')


async def _break(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    raise Broken


async def _break_in_body(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"1000")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"half', "more_body": True})
    raise Broken


async def _break_after_head(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
    raise Broken


EARLY_ERROR = stream_of(b'data: {"error":{"message":"full"}}\n\n')


@pytest.mark.parametrize(
    ("behave", "stream"),
    [
        (_unavailable, False),
        (_unavailable, True),
        (_break, False),
        (_break_in_body, False),
        (_break_after_head, True),
        (EARLY_ERROR, True),
    ],
)
async def test_a_failure_before_the_first_byte_is_retried_elsewhere(
    behave: Behaviour, stream: bool
) -> None:
    """The client sees the other unit's answer only."""
    good = stream_of(EVENT, DONE) if stream else whole
    bad = ScriptedEngine(behave=behave, predict=FAST)
    async with fleet(bad, ScriptedEngine(behave=good, predict=SLOW)) as running:
        answer = await running.complete(stream=stream)
        assert answer.status_code == 200
        assert b"error" not in answer.content
        assert answer.headers["x-astrolabe-unit"] == "u1"
        assert len(bad.requests) == 1
        statuses = [decision["status"] for decision in await running.decisions()]
        assert statuses == [502, 200]


async def test_an_engines_own_error_passes_when_nobody_else_is_left() -> None:
    """The last unit's 503 reaches the client as it is."""
    async with fleet(ScriptedEngine(behave=_unavailable)) as running:
        answer = await running.complete()
        assert (answer.status_code, answer.json()["error"]["message"]) == (503, "queue full")


async def test_an_engine_that_fails_alone_gives_a_502() -> None:
    """Nothing to retry on: an OpenAI-style error that names the unit."""
    async with fleet(ScriptedEngine(behave=_break_in_body)) as running:
        answer = await running.complete()
        assert answer.status_code == 502
        assert "u0" in answer.json()["error"]["message"]


async def test_a_stream_that_breaks_off_ends_with_an_error_event() -> None:
    """The official client raises; it does not take half an answer for a whole one."""
    async with fleet(ScriptedEngine(behave=stream_of(EVENT, EVENT, then=Broken()))) as running:
        client = openai.AsyncOpenAI(
            base_url=f"{running.client.base_url}/v1", api_key="x", max_retries=0
        )
        async with client:
            stream = await client.completions.create(model="m", prompt="p", stream=True)
            assert [(await anext(stream)).choices[0].text for _ in range(2)] == ["a", "a"]
            with pytest.raises(openai.APIError, match="failed while it answered"):
                await anext(stream)
        assert (await running.decisions())[-1]["status"] == 502


async def test_another_answer_that_breaks_off_is_not_passed_off_as_whole() -> None:
    """An error event has no place in an embedding or a file: the connection is cut instead."""

    async def break_off(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise Broken

    async with fleet(ScriptedEngine(behave=break_off)) as running:
        with pytest.raises(httpx.RemoteProtocolError):
            await running.client.post("/v1/audio/speech", json={"model": "m"})


async def test_a_client_that_leaves_during_the_questions_leaves_no_trace() -> None:
    """Its questions are dropped, with whatever error they end in."""

    async def refuse_late(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await anyio.sleep(0.3)
        await reply(send, 503, b"{}")

    engine = ScriptedEngine(answer_questions=refuse_late)
    async with fleet(engine, prediction_deadline_ms=1000.0) as running:
        with pytest.raises(httpx.ReadTimeout):
            await running.client.post(
                "/v1/completions", json={"model": "m", "prompt": "p"}, timeout=0.1
            )
        await anyio.sleep(0.4)
        assert engine.requests == []
        engine.answer_questions = None
        assert (await running.complete()).status_code == 200


async def test_an_engine_that_falls_silent_is_given_up() -> None:
    """The longest silence is bounded."""

    async def silent(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await receive()

    quiet = ScriptedEngine(behave=silent, predict=FAST)
    other = ScriptedEngine(predict=SLOW)
    async with fleet(quiet, other, engine_timeout_s=0.7) as running:
        answer = await running.complete()
        assert answer.headers["x-astrolabe-unit"] == "u1"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_aborts_the_engines_request(stream: bool) -> None:
    """The engine sees the disconnect at once, whether or not it has begun to answer."""
    begun, left = asyncio.Event(), asyncio.Event()

    async def endless(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        begun.set()
        if stream:
            await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
            await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass
        left.set()

    async with fleet(ScriptedEngine(behave=endless)) as running:
        client = asyncio.ensure_future(running.complete(stream=stream))
        with anyio.fail_after(60):
            await begun.wait()
            client.cancel()
            await left.wait()
        await eventually(lambda: _is_idle(running))
        assert (await running.decisions())[-1]["status"] == 499


async def test_a_client_that_hangs_up_after_the_last_event_has_its_whole_answer() -> None:
    """Official clients stop reading at [DONE]; that is no disconnect, and the answer counts."""

    async def slow_end(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        for chunk in (EVENT, EVENT, DONE):
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await anyio.sleep(0.3)
        await send({"type": "http.response.body", "body": b""})

    async with fleet(ScriptedEngine(behave=slow_end)) as running:
        body = {"model": "m", "prompt": "p", "stream": True}
        async with running.client.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                if line == "data: [DONE]":
                    break
        await eventually(lambda: _is_idle(running))
        (decision,) = await running.decisions()
        assert decision["status"] == 200
        assert decision["observed_e2e_ms"] is not None


async def _is_idle(running: Fleet) -> bool:
    units = (await running.client.get("/admin/units")).json()
    return all(unit["num_outstanding"] == 0 for unit in units)


async def test_an_unhealthy_unit_leaves_and_comes_back_by_itself() -> None:
    """Health checks decide; requests go to the others meanwhile."""
    flaky, steady = ScriptedEngine(predict=FAST), ScriptedEngine(predict=SLOW)
    async with fleet(flaky, steady) as running:
        assert (await running.complete()).headers["x-astrolabe-unit"] == "u0"
        flaky.healthy = False
        await eventually(lambda: _chosen(running, "u1"))
        flaky.healthy = True
        await eventually(lambda: _chosen(running, "u0"))


async def _chosen(running: Fleet, unit: str) -> bool:
    answer = await running.complete()
    return answer.status_code == 200 and answer.headers["x-astrolabe-unit"] == unit


async def test_no_healthy_unit_is_a_503_with_retry_after() -> None:
    """The client learns that it may come again."""
    async with fleet(ScriptedEngine(healthy=False)) as running:
        answer = await running.complete()
        assert answer.status_code == 503
        assert answer.headers["retry-after"] == "1"
        assert (await running.client.get("/health")).json() == {"units": 1, "healthy": 0}


async def test_many_clients_that_come_and_go_leave_nothing_behind() -> None:
    """After a storm of streams, errors and disconnects every counter is at zero."""

    async def moody(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        index = len(body) % 4
        behaviours = [stream_of(EVENT, DONE), stream_of(EVENT, then=Broken()), _break, _unavailable]
        await behaviours[index](scope, body, receive, send)

    async with fleet(*(ScriptedEngine(behave=moody) for _ in range(3))) as running:

        async def one(index: int) -> None:
            timeout = 0.02 if index % 5 == 0 else 60.0
            with anyio.move_on_after(timeout):
                await running.complete(prompt="x" * index, stream=True)

        await asyncio.gather(*(one(index) for index in range(120)))
        await eventually(lambda: _is_idle(running))
        units = (await running.client.get("/admin/units")).json()
        assert [unit["num_outstanding_tokens"] for unit in units] == [0, 0, 0]


async def test_an_interruption_in_the_last_moment_is_not_lost() -> None:
    """It ends what it was meant for, not whatever the task does next."""

    async def work(late: Interruptible) -> str:
        late.interrupt(asyncio.current_task(), ClientGone())  # nothing is awaited any more
        try:
            await late.settle()
        except ClientGone:
            await asyncio.sleep(0)  # not cancelled again
            return "gone"
        return "lost"

    assert await asyncio.ensure_future(work(Interruptible())) == "gone"
