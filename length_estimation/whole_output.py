"""Files and folders that appear when all of them is written, or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def appearing_at_once(out: Path, *, replace: bool) -> Iterator[Path]:
    """A path to write to, which takes the name ``out`` when that went well.

    Raises:
        FileExistsError: ``out`` is there and not to be replaced.
    """
    check_free(out, replace=replace)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        new = Path(scratch) / "new"
        yield new
        if out.exists():
            out.rename(Path(scratch) / "old")
        new.rename(out)


def check_free(out: Path, *, replace: bool) -> None:
    """See that ``out`` may be written, before hours of work are done for it.

    Raises:
        FileExistsError: it is there and not to be replaced.
    """
    if out.exists() and not replace:
        raise FileExistsError(f"{out} exists; --force replaces it")
