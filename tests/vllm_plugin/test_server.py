"""The HTTP server that remote readers use, against readers of all kinds."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from predictor.errors import ConfigurationError
from predictor.vllm_plugin import server
from predictor.vllm_plugin.publisher import SnapshotPublisher
from predictor.vllm_plugin.server import MAX_CONNECTIONS, MAX_REQUEST_BYTES
from tests.vllm_plugin.snapshots import encoded_snapshot, new_engine_id


@pytest.fixture
def publisher() -> Iterator[SnapshotPublisher]:
    made = SnapshotPublisher(new_engine_id(), "127.0.0.1:0")
    made.publish(encoded_snapshot("e", step=7))
    yield made
    made.close()


def get(publisher: SnapshotPublisher, path: str, accept: str = "*/*") -> tuple[int, str, bytes]:
    """Status, content type and body of one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", publisher.port, timeout=60)
    connection.request("GET", path, headers={"Accept": accept})
    response = connection.getresponse()
    answer = response.status, response.headers["content-type"], response.read()
    connection.close()
    return answer


def send(publisher: SnapshotPublisher, request: bytes) -> bytes:
    """What comes back on a connection that sends exactly this, up to its end."""
    assert publisher.port
    with socket.create_connection(("127.0.0.1", publisher.port), timeout=60) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
        return received


def received_until_dropped(connection: socket.socket) -> int:
    """How many bytes still come before the server's end of the connection is gone."""
    num_bytes = 0
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(1_000_000):
            num_bytes += len(chunk)
    return num_bytes


def test_snapshot_is_msgpack_or_json(publisher: SnapshotPublisher) -> None:
    """The same snapshot in the form that the reader asks for."""
    status, content_type, body = get(publisher, "/snapshot")
    assert (status, content_type) == (200, "application/msgpack")
    status, content_type, as_json = get(publisher, "/snapshot", accept="application/json")
    assert (status, content_type) == (200, "application/json")
    assert json.loads(as_json) == msgspec.msgpack.decode(body)
    assert json.loads(as_json)["step"] == 7


def test_health_unknown_paths_and_missing_snapshots(publisher: SnapshotPublisher) -> None:
    """Health does not depend on a snapshot; a retracted one is 503, an unknown path 404."""
    assert get(publisher, "/health")[0] == 200
    assert get(publisher, "/admin")[0] == 404
    publisher.publish(b"")
    assert get(publisher, "/snapshot")[0] == 503
    assert get(publisher, "/health")[0] == 200


def test_one_connection_carries_many_requests(publisher: SnapshotPublisher) -> None:
    """Readers keep their connection, and each answer is the newest snapshot."""
    connection = http.client.HTTPConnection("127.0.0.1", publisher.port, timeout=60)
    for step in range(20):
        publisher.publish(encoded_snapshot("e", step=step))
        connection.request("GET", "/snapshot")
        response = connection.getresponse()
        assert msgspec.msgpack.decode(response.read())["step"] == step
    connection.close()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /snapshot HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", b"405"),
        (b"GET /snapshot SMTP\r\n\r\n", b"400"),
        (b"\x00\xff\xfe\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 2 * MAX_REQUEST_BYTES + b" HTTP/1.1\r\n\r\n", b"431"),
    ],
)
def test_bad_requests_are_refused(
    publisher: SnapshotPublisher, request_bytes: bytes, status: bytes
) -> None:
    """Each wrong request gets its status, and the server goes on."""
    assert send(publisher, request_bytes).startswith(b"HTTP/1.1 " + status)
    assert get(publisher, "/health")[0] == 200


def test_trickling_readers_are_dropped_and_others_served(
    publisher: SnapshotPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connections that never finish a request are bounded, and time out."""
    monkeypatch.setattr(server, "IO_TIMEOUT_S", 0.5)
    assert publisher.port
    hostile = []
    for _ in range(MAX_CONNECTIONS - 1):
        connection = socket.create_connection(("127.0.0.1", publisher.port), timeout=60)
        connection.sendall(b"GET /snap")
        hostile.append(connection)
    assert get(publisher, "/snapshot")[0] == 200
    assert received_until_dropped(hostile[0]) == 0
    for connection in hostile:
        connection.close()


def test_reader_that_does_not_read_is_dropped(
    publisher: SnapshotPublisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that asks and asks without reading the answers loses its connection."""
    monkeypatch.setattr(server, "IO_TIMEOUT_S", 0.5)
    assert publisher.port
    publisher.publish(bytes(4_000_000))
    with socket.create_connection(("127.0.0.1", publisher.port), timeout=60) as connection:
        connection.sendall(b"GET /snapshot HTTP/1.1\r\n\r\n" * 10)
        time.sleep(server.IO_TIMEOUT_S + 0.5)
        assert received_until_dropped(connection) < 10 * 4_000_000
    assert get(publisher, "/health")[0] == 200


def test_publishing_stays_fast_under_a_flood(publisher: SnapshotPublisher) -> None:
    """Readers that ask as fast as they can do not take the interpreter from the engine."""
    assert publisher.port
    flood = []
    for _ in range(MAX_CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", publisher.port), timeout=60)
        connection.sendall(b"GET /snapshot HTTP/1.1\r\n\r\n" * 2000)
        flood.append(connection)
    payload = encoded_snapshot("e")
    times_s = []
    for _ in range(200):
        started = time.perf_counter()
        publisher.publish(payload)
        times_s.append(time.perf_counter() - started)
        time.sleep(0.001)
    for connection in flood:
        connection.close()
    assert sorted(times_s)[100] < 0.001


def test_unix_socket_is_private_and_removed(tmp_path: Path) -> None:
    """A UNIX socket serves its user alone, replaces a dead one, and goes at close."""
    path = tmp_path / "engine.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    publisher = SnapshotPublisher(new_engine_id(), f"unix:{path}")
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    publisher.close()
    assert not path.exists()


@pytest.mark.parametrize("listen", ["8301", "unix:relative", "host:port", "127.0.0.1:99999"])
def test_bad_address_is_named(listen: str) -> None:
    """The error quotes what was configured."""
    with pytest.raises(ConfigurationError, match=listen):
        SnapshotPublisher(new_engine_id(), listen)
