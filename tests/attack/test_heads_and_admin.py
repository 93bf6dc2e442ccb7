"""Heads without end, and bodies for the admin API from those who may not use it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler import exchange
from global_scheduler.admin_guard import MAX_ADMIN_BODY_BYTES
from tests.global_scheduler.fleet import EVENT, SSE_HEADERS, Fleet, ScriptedEngine, fleet
from tests.predictor.sidecar import free_port, running_sidecar
from wire.bounded_heads import MAX_HEAD_BYTES

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PIECE_BYTES, NUM_PIECES = 64 << 10, 128
"""Of an attack: 8 MB in all."""
MOST_GROWTH_BYTES = 40 << 20
"""Of a server's memory by all attacks together; one alone took 200 MB."""
PATIENCE_S = 60.0

TOKEN = "sesame"

Attack = Iterator[bytes]


@dataclass(frozen=True, slots=True)
class Server:
    """A running server, as its users start it."""

    port: int
    pid: int
    path_for_bodies: str

    def rss_bytes(self) -> int:
        """Resident memory of it and of the processes it has started."""
        return sum(map(rss_bytes, [self.pid, *children_of(self.pid)]))


def rss_bytes(pid: int) -> int:
    """Resident memory of one process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children_of(pid: int) -> list[int]:
    """Processes that this one has started."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


@contextlib.contextmanager
def running_gateway(num_workers: int) -> Iterator[Server]:
    """A gateway without units, from its command until it answers."""
    port = free_port()
    options = ["--port", str(port), "--workers", str(num_workers), "--length-estimator", "none"]
    options += ["--admin-token", TOKEN]
    process = subprocess.Popen([sys.executable, "-m", "global_scheduler", *options], cwd=ROOT)
    deadline_s = time.monotonic() + 240
    try:
        while True:
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"http://127.0.0.1:{port}/health", timeout=PATIENCE_S)
                break
            time.sleep(0.05)
        yield Server(port, process.pid, "/v1/completions")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


@pytest.fixture(scope="module", params=["gateway", "workers", "sidecar"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each kind of server that listens to strangers."""
    if request.param == "sidecar":
        with running_sidecar("http://127.0.0.1:9", "--state", "metrics") as sidecar:
            yield Server(sidecar.http.base_url.port or 0, sidecar.pid, "/predict")
    else:
        with running_gateway(2 if request.param == "workers" else 1) as gateway:
            yield gateway


@pytest.fixture(scope="module")
async def one_of_each() -> AsyncIterator[dict[int, Fleet]]:
    """A gateway of one process and one with workers, without a token."""
    async with fleet(ScriptedEngine()) as one, fleet(ScriptedEngine(), workers=2) as two:
        yield {1: one, 2: two}


def endless(start: str, unit: bytes) -> Attack:
    """A start, and then more and more of the same."""
    yield start.encode()
    for _ in range(NUM_PIECES):
        yield unit * (PIECE_BYTES // len(unit))


def short_headers(path: str) -> Attack:
    """Each costs a parser far more memory than it has bytes."""
    return endless(f"GET {path} HTTP/1.1\r\nhost: h\r\n", b"a:\r\n")


def one_long_value(path: str) -> Attack:
    """Which joining piece by piece makes quadratic."""
    return endless(f"GET {path} HTTP/1.1\r\nhost: h\r\na: ", b"x")


def one_long_url(path: str) -> Attack:
    """The same before the first header."""
    return endless(f"GET {path}?", b"x")


def blank_lines(path: str) -> Attack:
    """No head at all."""
    return endless("\r\n", b"\r\n")


def chunked(path: str) -> str:
    """The head of a request whose body comes in chunks."""
    return f"POST {path} HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"


def trailers(path: str) -> Attack:
    """Headers behind the body."""
    return endless(chunked(path) + "0\r\n", b"a:\r\n")


def one_long_trailer(path: str) -> Attack:
    """One of them."""
    return endless(chunked(path) + "0\r\na: ", b"x")


def chunk_extension(path: str) -> Attack:
    """A chunk of one byte with much to say about itself."""
    return endless(chunked(path) + "1;a=", b"x")


ATTACKS: list[Callable[[str], Attack]] = [
    short_headers,
    one_long_value,
    one_long_url,
    blank_lines,
    trailers,
    one_long_trailer,
    chunk_extension,
]


def answer_to(port: int, attack: Attack) -> bytes:
    """Send until there is an answer; all of it, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connection:
        for piece in attack:
            if select.select([connection], [], [], 0)[0]:
                break
            with contextlib.suppress(ConnectionError):
                connection.sendall(piece)
        answer = b""
        with contextlib.suppress(ConnectionError, TimeoutError):
            connection.settimeout(10.0)
            while some := connection.recv(65536):
                answer += some
    return answer


def test_heads_without_end_are_refused(server: Server) -> None:
    """With a 431 and a closed connection; memory stays and others are answered meanwhile."""
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=PATIENCE_S) as innocent:
        assert innocent.get("/health").status_code in (200, 503)
        before_bytes = server.rss_bytes()
        for attack in ATTACKS:
            answer = answer_to(server.port, attack(server.path_for_bodies))
            head, _, body = answer.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 431 "), (attack.__name__, answer[:200])
            assert b"connection: close" in head
            assert json.loads(body)["error"]["code"] == "head_too_large"
            assert innocent.get("/health").status_code in (200, 503)
        assert server.rss_bytes() - before_bytes < MOST_GROWTH_BYTES


def padded(total_bytes: int, path: str = "/health") -> bytes:
    """A whole head of so many bytes."""
    start, end = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\na: ".encode(), b"\r\n\r\n"
    return start + b"x" * (total_bytes - len(start) - len(end)) + end


def port_of(running: Fleet) -> int:
    """Where a fleet's gateway listens."""
    port = running.client.base_url.port
    assert port is not None
    return port


async def said(running: Fleet, *pieces: bytes) -> bytes:
    """What the gateway answers to these pieces, sent with pauses."""

    def paused() -> Attack:
        for piece in pieces:
            yield piece
            time.sleep(0.01)

    return await anyio.to_thread.run_sync(answer_to, port_of(running), paused())


@pytest.mark.parametrize("num_pieces", [1, 7])
async def test_a_head_may_have_64_kb_and_no_byte_more(num_pieces: int) -> None:
    """In however many pieces it comes."""
    async with fleet(ScriptedEngine()) as running:
        for total_bytes, status in ((MAX_HEAD_BYTES, b"200"), (MAX_HEAD_BYTES + 1, b"431")):
            head = padded(total_bytes).replace(b"\r\na:", b"\r\nconnection: close\r\na:", 1)
            head = head.replace(b"x" * len(b"\r\nconnection: close"), b"", 1)
            assert len(head) == total_bytes
            size = -(-total_bytes // num_pieces)
            pieces = [head[start : start + size] for start in range(0, total_bytes, size)]
            answer = await said(running, *pieces)
            assert answer.startswith(b"HTTP/1.1 " + status)


async def test_bodies_and_pipelines_are_not_counted_as_heads() -> None:
    """A body in chunks of a byte, and many requests at once, each small."""
    body = json.dumps({"model": "m", "prompt": "x" * 30_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    assert len(chunks) > 2 * MAX_HEAD_BYTES
    head = chunked("/v1/completions").replace("host", "connection: close\r\nhost").encode()
    async with fleet(ScriptedEngine()) as running:
        assert (await said(running, head + chunks)).startswith(b"HTTP/1.1 200 ")
        many = padded(1000) * 100 + b"GET /health HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"
        assert (await said(running, many)).count(b"HTTP/1.1 200 ") == 101


async def test_an_answer_under_way_is_not_garbled() -> None:
    """Who sends an endless head behind a request that streams is cut off without a word."""

    async def stream_without_end(scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": SSE_HEADERS})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    body = json.dumps({"model": "m", "prompt": "p", "stream": True})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: h\r\ncontent-length: {len(body)}\r\n\r\n"
    async with fleet(ScriptedEngine(stream_without_end)) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(running))
        writer.write(head.encode() + body.encode())
        begun = await reader.readuntil(EVENT)
        with contextlib.suppress(ConnectionError):
            for piece in short_headers("/health"):
                writer.write(piece)
                await writer.drain()
        rest = b""
        with contextlib.suppress(ConnectionError):
            rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
        assert begun.startswith(b"HTTP/1.1 200 ")
        assert b"431" not in rest
        assert (await running.client.get("/health")).status_code == 200


def admin_head(num_bytes: int, **headers: str) -> str:
    """Of a request that registers a unit with a body of so many bytes."""
    given = {"host": "127.0.0.1", "content-type": "application/json"} | headers
    lines = [f"{name}: {value}\r\n" for name, value in given.items()]
    return f"POST /admin/units HTTP/1.1\r\ncontent-length: {num_bytes}\r\n{''.join(lines)}\r\n"


@pytest.mark.parametrize("server", ["gateway", "workers"], indirect=True)
@pytest.mark.parametrize("authorization", ["Bearer wrong", f"Bearer {TOKEN}"])
def test_bodies_for_the_admin_api_cost_no_memory(server: Server, authorization: str) -> None:
    """Not of those without the token, and of the others no more than the limit."""
    before_bytes, num_bodies = server.rss_bytes(), 6
    head = admin_head(600_000_000, authorization=authorization)
    with contextlib.ExitStack() as open_ones:
        for _ in range(num_bodies):
            address = ("127.0.0.1", server.port)
            connection = socket.create_connection(address, timeout=PATIENCE_S)
            open_ones.enter_context(connection)
            with contextlib.suppress(ConnectionError):
                for piece in endless(head, b" "):
                    connection.sendall(piece)
        assert httpx.get(f"http://127.0.0.1:{server.port}/health").status_code == 200
        growth_bytes = server.rss_bytes() - before_bytes
    assert growth_bytes < num_bodies * NUM_PIECES * PIECE_BYTES / 2


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_token_is_looked_at_before_the_body(workers: int) -> None:
    """The answer is there though nothing of the body ever comes."""
    async with fleet(
        ScriptedEngine(), host="0.0.0.0", admin_token=TOKEN, workers=workers
    ) as running:
        answer = await said(running, admin_head(600_000_000).encode())
        assert answer.startswith(b"HTTP/1.1 401 ")
        units = await running.client.get(
            "/admin/units", headers={"authorization": f"Bearer {TOKEN}"}
        )
        assert [unit["name"] for unit in units.json()] == ["u0"]


async def test_a_body_for_the_admin_api_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a body is a 408, and registers nothing."""
    monkeypatch.setattr(exchange, "BODY_TIMEOUT_S", 0.2)
    async with fleet(ScriptedEngine()) as running:
        answer = await said(running, admin_head(100).encode(), b'{"name": "x"')
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert [unit["name"] for unit in (await running.client.get("/admin/units")).json()] == [
            "u0"
        ]


async def test_the_largest_body_for_the_admin_api_is_taken() -> None:
    """One more byte is a 413 that says what the limit is."""
    async with fleet(ScriptedEngine()) as running:
        for num_bytes, status in ((MAX_ADMIN_BODY_BYTES, 200), (MAX_ADMIN_BODY_BYTES + 1, 413)):
            body = b'{"policy": "round_robin"}'.ljust(num_bytes)
            answer = await running.client.put(
                "/admin/policy", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == status
        assert str(MAX_ADMIN_BODY_BYTES) in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "[::1]:9"}, 200),
        ({"host": "127.0.0.1:9", "origin": "http://127.0.0.1:9"}, 200),
        ({"host": "LOCALHOST:9", "origin": "http://localhost:9"}, 200),
        ({"content-type": "Application/JSON; charset=utf-8"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example", "origin": "http://evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost@evil.example:80"}, 403),
        ({"host": ""}, 403),
        ({"host": "[::1"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"host": "127.0.0.1:9", "origin": "http://127.0.0.1:8"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        ({"content-type": ""}, 415),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
async def test_pages_of_other_sites_cannot_use_the_admin_api(
    one_of_each: dict[int, Fleet], workers: int, headers: dict[str, str], status: int
) -> None:
    """Without a token it takes JSON, and from the gateway's own page only."""
    running = one_of_each[workers]
    given = {"content-type": "application/json"} | headers
    before = (await running.client.get("/admin/policy")).json()
    body = b'{"num_query_predictors": %d}' % (before["num_query_predictors"] + 1)
    answer = await running.client.put("/admin/policy", content=body, headers=given)
    assert answer.status_code == status
    after = (await running.client.get("/admin/policy")).json()
    assert (after != before) == (status == 200)


async def test_with_a_token_any_site_may_be_named() -> None:
    """A gateway behind a name of its own is asked by that name."""
    async with fleet(ScriptedEngine(), admin_token=TOKEN) as running:
        headers = {"host": "gateway.example", "origin": "https://console.example"}
        headers["authorization"] = f"Bearer {TOKEN}"
        assert (await running.client.get("/admin/units", headers=headers)).status_code == 200
