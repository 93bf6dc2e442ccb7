"""The file that carries an engine's snapshots from process to process."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator

import pytest

from predictor.errors import (
    ConfigurationError,
    SnapshotAbsent,
    SnapshotCorrupt,
    SnapshotStale,
    StateUnavailable,
)
from predictor.vllm_plugin.shared_memory import (
    MAX_SNAPSHOT_BYTES,
    SnapshotReader,
    SnapshotWriter,
    published_engine_ids,
    snapshot_path,
)
from tests.vllm_plugin.snapshots import new_engine_id

WRITE_UNTIL_KILLED = """
import sys, time
from predictor.vllm_plugin.shared_memory import SnapshotWriter
writer = SnapshotWriter(sys.argv[1])
count = 0
while True:
    writer.write(bytes([count % 251]) * (1 + count * 7919 % 50_000))
    if count == 0:
        print("ready", flush=True)
    count += 1
    time.sleep(50e-6)
"""


def test_engines_that_live_are_listed(engine_id: str) -> None:
    """By name, from their start to their end, whatever files others have left."""
    leftover = snapshot_path(f"{engine_id}-left")
    leftover.touch()
    try:
        assert engine_id not in published_engine_ids()
        writer = SnapshotWriter(engine_id)
        assert [one for one in published_engine_ids() if engine_id in one] == [engine_id]
        writer.close()
        assert engine_id not in published_engine_ids()
    finally:
        leftover.unlink()


@pytest.fixture
def engine_id() -> Iterator[str]:
    new_id = new_engine_id()
    yield new_id
    snapshot_path(new_id).unlink(missing_ok=True)


@pytest.fixture
def writer_process(engine_id: str) -> Iterator[subprocess.Popen[str]]:
    """A process that writes until it is killed; it has written once when a test gets it."""
    command = [sys.executable, "-c", WRITE_UNTIL_KILLED, engine_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        yield writer
        writer.kill()


def test_reader_gets_the_last_snapshot_whatever_its_size(engine_id: str) -> None:
    """Snapshots may grow and shrink from one write to the next."""
    writer, reader = SnapshotWriter(engine_id), SnapshotReader(engine_id)
    for payload in (b"first", b"x" * 1_000_000, b"last"):
        writer.write(payload)
        assert reader.read() == payload
    reader.close()
    writer.close()


def test_file_is_private_and_goes_with_the_writer(engine_id: str) -> None:
    """No other user can read an engine's state, and a closed engine leaves nothing behind."""
    writer = SnapshotWriter(engine_id)
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600
    writer.close()
    assert not writer.path.exists()
    with pytest.raises(SnapshotAbsent, match="does not exist"):
        SnapshotReader(engine_id).read()


@pytest.mark.usefixtures("writer_process")
def test_concurrent_reader_never_sees_a_torn_snapshot(engine_id: str) -> None:
    """What a reader gets while another process writes thousands of times a second is whole."""
    reader = SnapshotReader(engine_id)
    seen: set[bytes] = set()
    num_reads = 0
    while num_reads < 5_000 or len(seen) <= 50:
        num_reads += 1
        payload = reader.read()
        assert payload == payload[:1] * len(payload)
        seen.add(payload[:1])
    reader.close()


def test_killed_writer_is_stale_not_live(
    engine_id: str, writer_process: subprocess.Popen[str]
) -> None:
    """A reader that has the file open notices when the engine is killed, at whatever point."""
    reader = SnapshotReader(engine_id)
    reader.read()
    writer_process.kill()
    writer_process.wait()
    with pytest.raises(SnapshotStale, match="has ended"):
        reader.read()
    reader.close()


def test_writer_killed_in_the_middle_of_a_write_is_stale(engine_id: str) -> None:
    """What looks like a write without end is told from one by the writer's lock."""
    writer, reader = SnapshotWriter(engine_id), SnapshotReader(engine_id)
    writer._write_header(1, 0, 0)
    os.close(writer._fd)
    with pytest.raises(SnapshotStale):
        reader.read()
    reader.close()


def test_reader_follows_a_restarted_engine(engine_id: str) -> None:
    """A new engine of the same id replaces the file; the old one's close leaves it alone."""
    old, reader = SnapshotWriter(engine_id), SnapshotReader(engine_id)
    old.write(b"old")
    assert reader.read() == b"old"
    new = SnapshotWriter(engine_id)
    new.write(b"new")
    old.close()
    assert reader.read() == b"new"
    reader.close()
    new.close()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "too few for a header"),
        (b"garbage" * 100, "starts with"),
        (b"ASTROLB1" + b"\xff" * 16, "claims 4294967295 bytes"),
        (b"ASTROLB1" + bytes(8) + b"\x09\0\0\0" + bytes(4) + b"short", "cut off at 5 of 9"),
        (b"ASTROLB1" + bytes(8) + b"\x05\0\0\0" + bytes(4) + b"wrong", "checksum"),
    ],
)
def test_garbage_is_named_as_such(engine_id: str, content: bytes, message: str) -> None:
    """A file that is no snapshot gives an error that says what is wrong with it."""
    content = content.replace(b"\xff" * 16, bytes(8) + b"\xff" * 8)
    snapshot_path(engine_id).write_bytes(content)
    with pytest.raises(SnapshotCorrupt, match=message):
        SnapshotReader(engine_id).read()


def test_truncation_under_an_open_reader_and_writer_is_survived(engine_id: str) -> None:
    """Truncating the file, which would kill a process that has it mapped, is only an error."""
    writer, reader = SnapshotWriter(engine_id), SnapshotReader(engine_id)
    writer.write(b"x" * 10_000)
    reader.read()
    os.truncate(writer.path, 100)
    with pytest.raises(SnapshotCorrupt, match="cut off"):
        reader.read()
    writer.write(b"again")
    assert reader.read() == b"again"
    reader.close()
    writer.close()


def test_planted_link_and_pipe_neither_mislead_nor_block(engine_id: str) -> None:
    """Only a regular file under the very name is read."""
    path = snapshot_path(engine_id)
    path.symlink_to("/etc/hostname")
    with pytest.raises(StateUnavailable):
        SnapshotReader(engine_id).read()
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(SnapshotCorrupt, match="not a file"):
        SnapshotReader(engine_id).read()


def test_a_retracted_or_unwritten_snapshot_is_absent(engine_id: str) -> None:
    """An engine that cannot say its state says so."""
    writer, reader = SnapshotWriter(engine_id), SnapshotReader(engine_id)
    with pytest.raises(SnapshotAbsent, match="no snapshot yet"):
        reader.read()
    writer.write(b"something")
    writer.write(b"")
    with pytest.raises(SnapshotAbsent):
        reader.read()
    reader.close()
    writer.close()


@pytest.mark.parametrize("bad", ["", "../etc/passwd", "a/b", ".hidden", "x" * 129, "a b"])
def test_engine_id_must_be_a_plain_name(bad: str) -> None:
    """An id cannot lead out of the folder."""
    with pytest.raises(ConfigurationError, match="engine id"):
        snapshot_path(bad)


def test_oversized_snapshot_is_refused(engine_id: str) -> None:
    """The file stays bounded."""
    writer = SnapshotWriter(engine_id)
    with pytest.raises(ValueError, match="exceeds"):
        writer.write(bytes(MAX_SNAPSHOT_BYTES + 1))
    writer.close()
