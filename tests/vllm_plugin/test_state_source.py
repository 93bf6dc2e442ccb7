"""The sidecar's way to the snapshots: where they can be, and what can be wrong with them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from predictor.errors import (
    ConfigurationError,
    SnapshotAbsent,
    SnapshotCorrupt,
    SnapshotTorn,
    StateUnreachable,
)
from predictor.state.plugin import PluginStateSource
from predictor.vllm_plugin.publisher import SnapshotPublisher
from predictor.vllm_plugin.shared_memory import snapshot_path
from tests.vllm_plugin.snapshots import encoded_snapshot, new_engine_id

pytestmark = pytest.mark.anyio


@pytest.fixture
def engine_id() -> str:
    return new_engine_id()


@pytest.fixture
def publisher(engine_id: str) -> Iterator[SnapshotPublisher]:
    made = SnapshotPublisher(engine_id, "127.0.0.1:0")
    yield made
    made.close()


@pytest.mark.parametrize("kind", ["shm", "http", "unix"])
async def test_each_kind_of_address_gives_the_same_snapshot(kind: str, tmp_path: Path) -> None:
    """Shared memory, TCP and a UNIX socket; and absence before the first snapshot."""
    engine_id = new_engine_id()
    listen = f"unix:{tmp_path}/engine.sock" if kind == "unix" else "127.0.0.1:0"
    publisher = SnapshotPublisher(engine_id, listen)
    address = {
        "shm": f"shm:{engine_id}",
        "http": f"http://127.0.0.1:{publisher.port}/snapshot",
        "unix": listen,
    }[kind]
    source = PluginStateSource(address, timeout_s=60)
    with pytest.raises(SnapshotAbsent):
        await source.read()
    for step in (1, 2):
        publisher.publish(encoded_snapshot(engine_id, step))
        assert (await source.read()).step == step
    assert source.name == "plugin"
    await source.close()
    publisher.close()


async def test_an_engine_held_up_while_it_writes_still_has_its_last_state(engine_id: str) -> None:
    """Its file stays torn; who has not read it before is told so."""
    publisher = SnapshotPublisher(engine_id)
    publisher.publish(encoded_snapshot(engine_id, 1))
    source, late = PluginStateSource(f"shm:{engine_id}"), PluginStateSource(f"shm:{engine_id}")
    before = await source.read()
    with snapshot_path(engine_id).open("r+b") as file:
        file.seek(8)
        file.write((2**40 + 1).to_bytes(8, "little"))  # an odd sequence number: being written
    assert await source.read() is before
    with pytest.raises(SnapshotTorn):
        await late.read()
    publisher.publish(encoded_snapshot(engine_id, 2))
    assert (await source.read()).step == 2
    for reader in (source, late):
        await reader.close()
    publisher.close()


def changed(engine_id: str, *path: str, value: object) -> bytes:
    """An encoded snapshot with one field set to something else."""
    snapshot = msgspec.msgpack.decode(encoded_snapshot(engine_id))
    inner = snapshot
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return msgspec.msgpack.encode(snapshot)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("num_free_blocks",), -1, r"num_free_blocks"),
        (("limits", "block_size"), 0, r"limits\.block_size"),
        (("limits", "max_num_seqs"), "many", r"limits\.max_num_seqs"),
        (("running",), [{"request_id": 7}], r"running\[0\]\.request_id"),
        (("time",), float("nan"), r"\$\.time"),
        (("version",), 2, r"version: .*got 2"),
    ],
)
async def test_wrong_fields_are_named(
    engine_id: str,
    publisher: SnapshotPublisher,
    path: tuple[str, ...],
    value: object,
    message: str,
) -> None:
    """A snapshot that lies about its form is refused with the field's name."""
    source = PluginStateSource(f"shm:{engine_id}")
    publisher.publish(changed(engine_id, *path, value=value))
    with pytest.raises(SnapshotCorrupt, match=message):
        await source.read()
    await source.close()


@pytest.mark.parametrize("hostile", [b"\xc1", b"\xdf\xff\xff\xff\xff", b"\x91" * 100_000, b"{}"])
async def test_hostile_bytes_are_refused(
    engine_id: str, publisher: SnapshotPublisher, hostile: bytes
) -> None:
    """Neither invalid, nor endless, nor deeply nested msgpack gets through."""
    source = PluginStateSource(f"shm:{engine_id}")
    publisher.publish(hostile)
    with pytest.raises(SnapshotCorrupt):
        await source.read()
    await source.close()


async def test_new_fields_are_ignored(engine_id: str, publisher: SnapshotPublisher) -> None:
    """A newer plug-in may say more."""
    source = PluginStateSource(f"shm:{engine_id}")
    publisher.publish(changed(engine_id, "colour", value="blue"))
    assert (await source.read()).step == 1
    await source.close()


async def test_silent_engine_runs_into_the_deadline() -> None:
    """A port that accepts and never answers costs no more than the deadline."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        source = PluginStateSource(
            f"http://127.0.0.1:{silent.getsockname()[1]}/snapshot", timeout_s=0.2
        )
        with pytest.raises(StateUnreachable, match=r"within 0\.2 s"):
            await source.read()
        await source.close()


async def test_refused_connection_is_unreachable() -> None:
    """Nobody listens: an error that names the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    source = PluginStateSource(f"http://127.0.0.1:{port}/snapshot")
    with pytest.raises(StateUnreachable, match=str(port)):
        await source.read()
    await source.close()


@pytest.mark.parametrize("address", ["", "engine", "shm:", "ftp://x", "unix:relative"])
async def test_other_addresses_are_refused(address: str) -> None:
    """The error quotes the address."""
    with pytest.raises(ConfigurationError, match=r"engine id|plug-in address"):
        PluginStateSource(address)
