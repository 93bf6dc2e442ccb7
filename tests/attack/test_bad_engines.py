"""Engines that misbehave on the wire: nobody but the request that they answer may notice."""

from __future__ import annotations

import asyncio
import socket
import threading

import anyio
import httpx
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.connection_pool import ConnectionPool, origin_of
from tests.attack.bad_engine import (
    MODELS,
    BadEngine,
    Call,
    Misbehaviour,
    Reader,
    Writer,
    completion,
    fleet_with,
    honest,
    http,
)
from tests.global_scheduler.fleet import Fleet, ScriptedEngine, fleet, prediction, reply
from wire.prediction import PredictBatchRequest, PredictBatchResponse

pytestmark = pytest.mark.anyio

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n"
MOST_TAKEN_BYTES = 24 << 20
"""Of what nobody wants: what the buffers of both ends' sockets hold, and some."""
STOLEN = completion("what another client asked for")


def text_of(answer: httpx.Response) -> str:
    """The completion's."""
    text: str = answer.raise_for_status().json()["choices"][0]["text"]
    return text


# Answers that follow one another on a connection


async def begins_another_answer(engine: BadEngine, call: Call, writer: Writer) -> None:
    """The right answer and the first bytes of another, whose rest follows the next request."""
    writer.write(honest(call) + STOLEN[:30] if call.turn == 0 else STOLEN[30:])


async def begins_a_byte(engine: BadEngine, call: Call, writer: Writer) -> None:
    """As before, with as little of it as can be."""
    writer.write(honest(call) + STOLEN[:1] if call.turn == 0 else STOLEN[1:])


async def answers_twice(engine: BadEngine, call: Call, writer: Writer) -> None:
    """Two whole answers at once."""
    writer.write(honest(call) + STOLEN)


async def speaks_unasked(engine: BadEngine, call: Call, writer: Writer) -> None:
    """Another answer, a moment after the right one."""
    writer.write(honest(call))
    await asyncio.sleep(0.05)
    writer.write(STOLEN)
    engine.spoke_unasked.set()


@pytest.mark.parametrize(
    "mode", [begins_another_answer, begins_a_byte, answers_twice, speaks_unasked]
)
async def test_the_next_client_gets_its_own_answer(mode: Misbehaviour) -> None:
    """Whatever follows a complete answer, its connection serves nobody else."""
    bad = BadEngine(mode)
    async with fleet_with(bad) as running:
        assert text_of(await running.complete(prompt="guilty")) == "for guilty"
        if mode is speaks_unasked:
            await bad.spoke_unasked.wait()
        assert text_of(await running.complete(prompt="innocent")) == "for innocent"
    assert [call.turn for call in bad.calls] == [0, 0]


async def test_the_next_client_of_a_worker_gets_its_own_answer() -> None:
    """Workers' connections to engines are of the same kind."""
    async with fleet_with(BadEngine(begins_another_answer), workers=2) as running:
        for client in ("first", "second", "third"):
            assert text_of(await running.complete(prompt=client)) == f"for {client}"


async def test_what_nobody_has_read_yet_is_no_answer_either() -> None:
    """An engine may speak unasked while the gateway is busy and looks only when it asks again."""
    says_more, has_said = threading.Event(), threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def engine() -> None:
        first, _ = listener.accept()
        first.recv(1000)
        first.sendall(completion("right"))
        says_more.wait()
        first.sendall(STOLEN)
        has_said.set()
        with listener.accept()[0] as second:
            second.recv(1000)
            second.sendall(completion("right"))
        first.close()

    thread = threading.Thread(target=engine)
    thread.start()
    pool = ConnectionPool(connect_timeout_s=60.0, idle_s=60.0)
    origin = origin_of(f"http://127.0.0.1:{listener.getsockname()[1]}")
    for _ in range(2):
        asked = pool.request(origin, "GET", "/", [], b"", silence_s=60.0)
        async with await asked as response:
            assert b"right" in await response.read_some()
        says_more.set()
        has_said.wait()  # the event loop, too
    thread.join()
    listener.close()


RIGHT_MS = 1e7


def predicted(call: Call, e2e_ms: float) -> bytes:
    """A sidecar's answer, whole."""
    asked = msgspec.json.decode(call.body, type=PredictBatchRequest).requests
    answers = [prediction(request_id=one.request_id, e2e_ms=e2e_ms) for one in asked]
    return http(msgspec.json.encode(PredictBatchResponse(predictions=answers)))


async def predicts_and_begins_another(engine: BadEngine, call: Call, writer: Writer) -> None:
    """A sidecar's right answer, and the beginning of one to another question."""
    other = predicted(call, e2e_ms=RIGHT_MS / 1e6)
    writer.write(predicted(call, e2e_ms=RIGHT_MS) + other[:30] if call.turn == 0 else other[30:])


async def echo(engine: BadEngine, call: Call, writer: Writer) -> None:
    """As it should."""
    writer.write(honest(call))


async def test_the_next_request_is_decided_by_its_own_prediction() -> None:
    """A sidecar's answer is no more left for the next question than an engine's."""
    sidecar = BadEngine(predicts_and_begins_another)
    async with fleet_with(
        BadEngine(echo), sidecar=sidecar, policy="min_new_request_latency"
    ) as running:
        for client in ("guilty", "innocent"):
            assert text_of(await running.complete(prompt=client)) == f"for {client}"
        decisions = await running.decisions()
    # The log adds the time that has gone by.
    assert [one["predicted_e2e_ms"] >= RIGHT_MS for one in decisions] == [True, True]


async def refuses_unread(engine: BadEngine, call: Call, writer: Writer) -> None:
    """An answer before the body has been read; what comes after it is not read either."""
    writer.write(http(b'{"error":{"message":"too long"}}', 400) if call.turn == 0 else b"")


async def test_a_request_does_not_wait_behind_a_body_that_nobody_reads() -> None:
    """A connection that still has to send is not used again."""
    bad = BadEngine(refuses_unread, reads_bodies=False)
    async with fleet_with(bad, max_body_bytes=32 << 20, engine_timeout_s=60.0) as running:
        body = b" " * (24 << 20)
        answer = await running.client.post("/v1/rerank", content=body)
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")
        answer = await running.client.post("/v1/rerank", content=b"innocent")
        assert (answer.status_code, answer.json()["error"]["message"]) == (400, "too long")
    assert [call.turn for call in bad.calls] == [0, 0]


# Answers that are none


def answers_status(status: int) -> Misbehaviour:
    """An answer with that status."""

    async def misbehave(engine: BadEngine, call: Call, writer: Writer) -> None:
        writer.write(http(b"{}", status).replace(b"X", b"X\r\nlocation: http://elsewhere/"))

    return misbehave


FAILING = [99, 600, 999, 301, 307]


@pytest.mark.parametrize("status", FAILING)
async def test_a_status_that_is_none_is_its_units_failure(status: int) -> None:
    """Clients get another unit's answer; so it is with redirects, which are not for them."""
    bad = BadEngine(answers_status(status))
    async with fleet_with(bad, ScriptedEngine()) as running:
        answers = [await running.complete(stream=stream) for stream in (False, True)]
        assert [text_of(answer) for answer in answers] == ["ok", "ok"]
        assert {answer.headers["x-astrolabe-unit"] for answer in answers} == {"u0"}
    assert bad.calls


@pytest.mark.parametrize("status", FAILING)
async def test_a_status_that_is_none_is_a_502_where_nobody_else_can_answer(status: int) -> None:
    """An answer, at least, for generations and for all else; engines' addresses stay inside."""
    async with fleet_with(BadEngine(answers_status(status))) as running:
        for path in ("/v1/completions", "/v1/embeddings"):
            answer = await running.client.post(path, json={"model": "m", "prompt": "p"})
            assert answer.status_code == 502
            assert f"{status}" in answer.json()["error"]["message"]
            assert "elsewhere" not in answer.text + str(answer.headers)


async def test_not_modified_is_an_answer() -> None:
    """It redirects nobody."""
    async with fleet_with(BadEngine(answers_status(304))) as running:
        assert (await running.client.get("/v1/files/f")).status_code == 304


async def test_a_unit_whose_health_check_redirects_is_not_healthy() -> None:
    """Elsewhere may be healthy; requests would not get there."""

    async def elsewhere(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await reply(send, 200, MODELS)

    async with fleet(ScriptedEngine(behave=elsewhere)) as running:
        target = f"{running.app.units.all()[0].engine_url}/elsewhere"
        redirect = f"HTTP/1.1 307 X\r\nlocation: {target}\r\ncontent-length: 0\r\n\r\n".encode()

        async def redirects(reader: Reader, writer: Writer) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(redirect)
            writer.close()

        async with await asyncio.start_server(redirects, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            unit = {"name": "bad", "engine_url": f"http://127.0.0.1:{port}"}
            added = (await running.client.post("/admin/units", json=unit)).json()
            assert not added["healthy"]
            assert "307" in added["last_error"]


# Trailers


async def ends_with_trailers(engine: BadEngine, call: Call, writer: Writer) -> None:
    """A body in chunks, and headers behind it."""
    writer.write(CHUNKED + b"0\r\nset-cookie: a=b\r\nx-astrolabe-unit: other\r\n\r\n")


async def floods_with_trailers(engine: BadEngine, call: Call, writer: Writer) -> None:
    """Headers behind the body, without end."""
    writer.write(CHUNKED + b"0\r\n")
    await engine.write_on(writer, b"a: b\r\n" * 10_000, 1000)


async def floods_with_one_trailer(engine: BadEngine, call: Call, writer: Writer) -> None:
    """A single header behind the body, without end."""
    writer.write(CHUNKED + b"0\r\na: ")
    await engine.write_on(writer, b"b" * 60_000, 1000)


async def floods_with_an_extension(engine: BadEngine, call: Call, writer: Writer) -> None:
    """A chunk that never begins."""
    writer.write(CHUNKED + b"2;a=")
    await engine.write_on(writer, b"b" * 60_000, 1000)


async def test_trailers_are_not_headers() -> None:
    """They are read over."""
    async with fleet_with(BadEngine(ends_with_trailers)) as running:
        for stream in (False, True):
            answer = await running.complete(stream=stream)
            assert (answer.status_code, answer.content) == (200, b"{}")
            assert "set-cookie" not in answer.headers
            assert answer.headers["x-astrolabe-unit"] == "bad"


@pytest.mark.parametrize(
    "mode", [floods_with_trailers, floods_with_one_trailer, floods_with_an_extension]
)
async def test_what_is_no_body_has_an_end(mode: Misbehaviour) -> None:
    """The unit has failed, and the gateway has not read on meanwhile; others are answered."""
    bad = BadEngine(mode)
    async with fleet_with(bad, ScriptedEngine()) as running:
        for _ in range(2):
            assert text_of(await running.complete()) == "ok"
    assert bad.calls
    assert bad.num_written_bytes < MOST_TAKEN_BYTES


# Headers for one connection only


def headers_of(call: Call) -> set[str]:
    """The names of its headers."""
    return {name for name, _ in call.headers}


@pytest.mark.parametrize("workers", [1, 2])
async def test_headers_for_one_connection_stay_there(workers: int) -> None:
    """Those that ``Connection`` names, of client or engine, and an old name of it."""

    async def names_headers(engine: BadEngine, call: Call, writer: Writer) -> None:
        mine = (b"connection: X-Mine, keep-alive", b"x-mine: 1", b"connection: x-also")
        writer.write(http(b"{}", 200, *mine, b"x-also: 2", b"proxy-connection: close", b"x-all: 3"))

    bad = BadEngine(names_headers)
    sent = [
        ("connection", "X-Hop , keep-alive"),
        *(("x-hop", "1"), ("proxy-connection", "keep-alive"), ("x-end", "2")),
    ]
    async with fleet_with(bad, workers=workers) as running:
        for path in ("/v1/completions", "/v1/embeddings"):
            body = b'{"model":"m","prompt":"p"}'
            answer = await running.client.post(
                path, content=body, headers=[("content-type", "application/json"), *sent]
            )
            assert answer.headers["x-all"] == "3"
            assert not {"x-mine", "x-also", "proxy-connection"} & set(answer.headers)
    for call in bad.calls:
        assert "x-end" in headers_of(call)
        assert not {"x-hop", "connection", "proxy-connection"} & headers_of(call)


async def test_what_the_gateway_adds_cannot_be_struck_out() -> None:
    """Naming a header in ``Connection`` does away with the client's own only."""
    bad = BadEngine(echo)
    async with fleet_with(bad, engine_api_key="secret") as running:
        await running.complete(headers={"connection": "authorization, x-request-id, host"})
    (call,) = bad.calls
    assert ("authorization", "Bearer secret") in call.headers
    assert {"x-request-id", "host"} <= headers_of(call)


# Whom a request is for


async def status_of(running: Fleet, request: bytes) -> int:
    """The answer's to these bytes."""
    url = running.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(request)
    with anyio.fail_after(60):
        line = await reader.readline()
    writer.close()
    return int(line.split()[1])


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_request_says_once_whom_it_is_for(workers: int) -> None:
    """No Host or two are refused, wherever it leads; HTTP/1.0 may leave it out."""
    async with fleet(ScriptedEngine(), workers=workers) as running:
        for path in (b"/v1/models", b"/health", b"/admin/units"):
            asked = b"GET " + path + b" HTTP/1.1\r\n"
            assert await status_of(running, asked + b"host: localhost\r\n\r\n") == 200
            assert await status_of(running, asked + b"\r\n") == 400
            assert await status_of(running, asked + b"host: localhost\r\nhost: b\r\n\r\n") == 400
            asked = b"GET " + path + b" HTTP/1.0\r\n"
            assert await status_of(running, asked + b"\r\n") == 200
            assert await status_of(running, asked + b"host: localhost\r\nhost: b\r\n\r\n") == 400
