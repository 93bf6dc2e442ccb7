"""The request log: what was asked and how long the answer got, for training a length estimator.

It holds prompts in clear, so it is off unless asked for, and only its owner may read it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Literal

import anyio.to_thread
import msgspec

from wire.length import LengthQuestion

logger = logging.getLogger(__name__)

NUM_ROTATED_FILES = 9
"""Kept beside the newest, as ``PATH.1`` (younger) to ``PATH.9``."""
MOST_WAITING_CHARACTERS = 32_000_000
"""What may wait for a slow disk; more is left out."""
CHARACTERS_PER_ENTRY = 1_000
"""What an entry counts for beyond its texts."""
CLOSE_TIMEOUT_S = 5.0

LossReason = Literal["slow_disk", "write_failed"]


class LoggedRequest(msgspec.Struct, kw_only=True, frozen=True):
    """One answered request."""

    request_id: str
    time_s: float
    """When it was sent to a unit, seconds since 1970."""
    question: LengthQuestion
    opening: str
    """The first message of its conversation."""
    num_output_tokens: int
    is_exact: bool
    """Whether the engine said so; else each event of the stream stands for a token."""


class RequestLog:
    """Appends a JSON line for each request, on a thread that a slow disk may hold up."""

    def __init__(
        self, path: Path, *, max_bytes: int, on_loss: Callable[[LossReason], None]
    ) -> None:
        """Open the file.

        Args:
            max_bytes: of one file, before it is rotated away.
            on_loss: called from any thread for each request that was not written.

        Raises:
            OSError: the file cannot be opened for writing.
        """
        self._on_loss = on_loss
        self._file = _PrivateFile(path, max_bytes, lambda: on_loss("write_failed"))
        self._queue: queue.SimpleQueue[LoggedRequest | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_characters = 0
        # A daemon, as a disk that hangs must not keep the gateway from ending.
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)

    async def __aenter__(self) -> RequestLog:
        """Begin to write."""
        self._thread.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        """Write what waits, for a few seconds at most."""
        self._queue.put(None)
        await anyio.to_thread.run_sync(self._thread.join, CLOSE_TIMEOUT_S)

    def add(self, request: LoggedRequest) -> None:
        """Have a request written; never waits."""
        size = _size(request)
        with self._lock:
            has_room = self._waiting_characters + size <= MOST_WAITING_CHARACTERS
            self._waiting_characters += size if has_room else 0
        if has_room:
            self._queue.put(request)
        else:
            self._on_loss("slow_disk")

    def _run(self) -> None:
        while (request := self._queue.get()) is not None:
            self._file.emit(logging.makeLogRecord({"msg": _line(request)}))
            with self._lock:
                self._waiting_characters -= _size(request)
        with suppress(OSError):  # what could not be written is counted
            self._file.close()


class _PrivateFile(RotatingFileHandler):
    """A rotating file that only its owner may read."""

    def __init__(self, path: Path, max_bytes: int, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._has_failed = False
        super().__init__(path, maxBytes=max_bytes, backupCount=NUM_ROTATED_FILES, encoding="utf-8")

    def _open(self) -> TextIOWrapper:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        return os.fdopen(os.open(self.baseFilename, flags, 0o600), "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:
        """Count what could not be written, and say so once: a full disk would say it each time."""
        self._on_failure()
        if not self._has_failed:
            self._has_failed = True
            logger.error("the request log cannot be written: %s", sys.exc_info()[1])
        if self.stream is not None and self.stream.closed:
            self.stream = None  # has the next write open it again


def _size(request: LoggedRequest) -> int:
    return len(request.question.text) + len(request.question.context) + CHARACTERS_PER_ENTRY


def _line(request: LoggedRequest) -> str:
    fields = {
        "request_id": request.request_id,
        "time_s": request.time_s,
        "conversation": _digest(request.opening),
        **msgspec.structs.asdict(request.question),
        "num_output_tokens": request.num_output_tokens,
        "is_exact": request.is_exact,
    }
    return msgspec.json.encode(fields).decode()


def _digest(opening: str) -> str:
    """Conversations that begin alike are taken for one, so that none gets into two splits."""
    return hashlib.blake2b(opening.encode(), digest_size=12).hexdigest()
