"""The folder of a study that begins, or of one that was interrupted and goes on."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from exp.study.errors import ResultError
from exp.study.results import CASES, CONFIG, SUMMARY, StudyConfig, read_json

LOCK = ".lock"


@contextmanager
def study_folder(out: Path, study: str, backend: str, *, is_quick: bool) -> Iterator[Path]:
    """Locked for as long as the block lasts.

    The newest folder of an unfinished study of the same kind that no other process works in, else
    a new one, ``<out>/<study>/<time>``.
    """
    parent = out / study
    parent.mkdir(parents=True, exist_ok=True)
    for folder in sorted(parent.iterdir(), reverse=True):
        if not _is_unfinished(folder, backend, is_quick):
            continue
        lock = _try_lock(folder)
        if lock is None:
            continue
        # Another process may have finished it since.
        if _is_unfinished(folder, backend, is_quick):
            yield from _held(folder, lock)
            return
        os.close(lock)
    folder = _new_folder(parent)
    lock = _try_lock(folder)
    assert lock is not None
    yield from _held(folder, lock)


def _held(folder: Path, lock: int) -> Iterator[Path]:
    try:
        yield folder
    finally:
        os.close(lock)
        if (folder / SUMMARY).exists() and not (folder / CASES).exists():
            (folder / LOCK).unlink(missing_ok=True)


def _is_unfinished(folder: Path, backend: str, is_quick: bool) -> bool:
    """Runs are kept apart for as long as some are missing."""
    if (folder / SUMMARY).exists() and not (folder / CASES).exists():
        return False
    try:
        config = read_json(folder / CONFIG, StudyConfig)
    except ResultError:
        return False
    return (config.backend, config.is_quick) == (backend, is_quick)


def _try_lock(folder: Path) -> int | None:
    """A descriptor to close; None while another process has it."""
    lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _new_folder(parent: Path) -> Path:
    """Named by the time, UTC; a number follows if that is taken."""
    name = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H-%M-%SZ")
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
