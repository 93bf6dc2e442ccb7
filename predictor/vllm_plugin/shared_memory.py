"""One engine's last snapshot in a small file that every process of the host can read.

The file lies in ``/dev/shm`` where that exists, so nothing reaches a disk. It is guarded by a
seqlock: the writer makes the sequence number odd, writes, and makes it even; a reader that saw an
odd or a changed number tries again. A checksum guards against what a sequence number cannot promise
on processors that reorder stores. Both sides use ``pread`` and ``pwrite`` rather than a mapping:
a mapped file that someone truncates, or a full file system, kills the process with SIGBUS.

The writer holds an exclusive ``flock`` while it lives, so readers can tell an idle engine from a
dead one, in another PID namespace too. A restarted engine replaces the file, and readers notice by
its inode.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
import tempfile
import time
import zlib
from pathlib import Path

from predictor.errors import (
    ConfigurationError,
    SnapshotAbsent,
    SnapshotCorrupt,
    SnapshotStale,
    SnapshotTorn,
    StateUnavailable,
)

MAX_SNAPSHOT_BYTES = 16 * 1024 * 1024
MAX_ATTEMPTS = 50
RETRY_PAUSE_S = 50e-6

_MAGIC = b"ASTROLB1"
_HEADER = struct.Struct("<8sQII")  # magic, sequence number, payload bytes, CRC-32 of the payload
_PREFIX, _SUFFIX = "astrolabe-", ".snapshot"
_ENGINE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,127}")


def snapshot_path(engine_id: str) -> Path:
    """Where the snapshots of an engine are.

    Raises:
        ConfigurationError: the id would not make a plain file name.
    """
    if not _ENGINE_ID.fullmatch(engine_id):
        raise ConfigurationError(
            f"engine id {engine_id!r} must be 1 to 128 of the characters A-Z a-z 0-9 . _ : - "
            "and must not start with . : or -"
        )
    return _folder() / f"{_PREFIX}{engine_id}{_SUFFIX}"


def published_engine_ids() -> list[str]:
    """The engines of this host that run and publish for this user, by name."""
    names = (path.name for path in _folder().glob(f"{_PREFIX}*{_SUFFIX}"))
    ids = (name.removeprefix(_PREFIX).removesuffix(_SUFFIX) for name in names)
    return sorted(engine_id for engine_id in ids if _is_published(engine_id))


def _is_published(engine_id: str) -> bool:
    with contextlib.suppress(ConfigurationError, StateUnavailable):
        reader = SnapshotReader(engine_id)
        try:
            reader.open()
            reader.check_alive()
        finally:
            reader.close()
        return True
    return False


def _folder() -> Path:
    shared_memory = Path("/dev/shm")
    in_memory = shared_memory.is_dir() and os.access(shared_memory, os.W_OK | os.X_OK)
    return shared_memory if in_memory else Path(tempfile.gettempdir())


class SnapshotWriter:
    """The engine's side. One thread writes."""

    def __init__(self, engine_id: str) -> None:
        """Replaces what an earlier engine of that id left behind.

        Raises:
            ConfigurationError: the id cannot be used.
            OSError: the file cannot be made.
        """
        self.path = snapshot_path(engine_id)
        self._sequence = 0
        self._fd, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:  # mkstemp made it with mode 0600
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self._fd, _HEADER.pack(_MAGIC, 0, 0, 0), 0)
            os.replace(name, self.path)
        except OSError:
            os.close(self._fd)
            os.unlink(name)
            raise

    def write(self, payload: bytes) -> None:
        """Publish a snapshot; empty bytes take back the last one.

        Raises:
            ValueError: more than MAX_SNAPSHOT_BYTES.
            OSError: the file system is full or gone.
        """
        if len(payload) > MAX_SNAPSHOT_BYTES:
            raise ValueError(f"a snapshot of {len(payload)} bytes exceeds {MAX_SNAPSHOT_BYTES}")
        self._write_header(self._sequence + 1, 0, 0)
        if os.pwrite(self._fd, payload, _HEADER.size) != len(payload):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        self._write_header(self._sequence + 2, len(payload), zlib.crc32(payload))
        self._sequence += 2

    def _write_header(self, sequence: int, num_bytes: int, checksum: int) -> None:
        os.pwrite(self._fd, _HEADER.pack(_MAGIC, sequence, num_bytes, checksum), 0)

    def close(self) -> None:
        """Remove the file, unless a newer engine of the same id has replaced it."""
        if self._fd < 0:
            return
        with contextlib.suppress(FileNotFoundError):
            if _identity(os.stat(self.path)) == _identity(os.fstat(self._fd)):
                os.unlink(self.path)
        os.close(self._fd)
        self._fd = -1


class SnapshotReader:
    """A reader's side. Opens the file when it is there and again when it is replaced."""

    def __init__(self, engine_id: str) -> None:
        """Raises ConfigurationError when the id cannot be used."""
        self.path = snapshot_path(engine_id)
        self._fd = -1
        self._opened: tuple[int, int] | None = None

    def read(self) -> bytes:
        """The last snapshot; takes a few milliseconds at worst.

        Raises:
            SnapshotAbsent, SnapshotTorn, SnapshotCorrupt, SnapshotStale: see ``predictor.errors``.
        """
        for _ in range(MAX_ATTEMPTS):
            payload = self.try_read()
            if payload is not None:
                return payload
            time.sleep(RETRY_PAUSE_S)
        # A writer that died halfway through leaves what looks like an endless write.
        self.check_alive()
        raise SnapshotTorn(f"{self.path}: the engine wrote at each of {MAX_ATTEMPTS} attempts")

    def try_read(self) -> bytes | None:
        """The last snapshot, or None when the engine is writing just now. Raises like ``read``."""
        self.open()
        before = os.pread(self._fd, _HEADER.size, 0)
        if len(before) < _HEADER.size:
            raise SnapshotCorrupt(f"{self.path}: {len(before)} bytes are too few for a header")
        magic, sequence, num_bytes, checksum = _HEADER.unpack(before)
        if magic != _MAGIC:
            raise SnapshotCorrupt(f"{self.path}: starts with {magic!r}, not {_MAGIC!r}")
        if num_bytes > MAX_SNAPSHOT_BYTES:
            raise SnapshotCorrupt(f"{self.path}: claims {num_bytes} bytes")
        payload = os.pread(self._fd, num_bytes, _HEADER.size)
        if sequence % 2 or os.pread(self._fd, _HEADER.size, 0) != before:
            return None
        self._check(payload, num_bytes, checksum)
        self.check_alive()
        return payload

    def _check(self, payload: bytes, num_bytes: int, checksum: int) -> None:
        if not num_bytes:
            raise SnapshotAbsent(f"{self.path}: the engine has published no snapshot yet")
        if len(payload) < num_bytes:
            raise SnapshotCorrupt(f"{self.path}: cut off at {len(payload)} of {num_bytes} bytes")
        if zlib.crc32(payload) != checksum:
            raise SnapshotCorrupt(f"{self.path}: wrong checksum")

    def check_alive(self) -> None:
        """Raises SnapshotStale when the writer of the open file has ended."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # the writer holds its lock
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        raise SnapshotStale(f"{self.path}: the engine that wrote it has ended")

    def open(self) -> None:
        """Open the file where it is not, or is another by now. Raises as ``read`` does."""
        try:
            if self._fd >= 0 and _identity(os.stat(self.path)) == self._opened:
                return
            self.close()
            # Neither a planted link nor a planted pipe may lead astray or block.
            self._fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise SnapshotAbsent(f"{self.path} does not exist: is the engine running?") from error
        except OSError as error:
            raise SnapshotAbsent(f"{self.path}: {error.strerror}") from error
        opened = os.fstat(self._fd)
        self._opened = _identity(opened)
        if not stat.S_ISREG(opened.st_mode):
            raise SnapshotCorrupt(f"{self.path} is not a file")
        if os.geteuid() not in (0, opened.st_uid):
            raise SnapshotCorrupt(f"{self.path} belongs to user {opened.st_uid}")

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._opened = -1, None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
