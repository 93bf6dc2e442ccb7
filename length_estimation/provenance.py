"""How a data set came to be: ``provenance.json``, next to the data."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

FILE_NAME = "provenance.json"


class Provenance(msgspec.Struct, kw_only=True, frozen=True):
    """What made a data set."""

    source: str
    files: dict[str, str]
    """The source's files by name, each with the sha256 of its bytes."""
    split: str
    seed: int
    test_share: float
    validation_share: float
    max_examples: int | None
    first_turns_only: bool
    tokenizer: str
    model: str
    counts: dict[str, int]
    """Examples after each step, in order."""
    test_prompts_sha256: str
    """Tells whether a model was trained beside this test split."""
    versions: dict[str, str]
    command: str
    date: str
    """UTC, ISO 8601."""
    limit: int | None = None
    """Answered prompts that were read at most."""


def file_sha256(file: Path) -> str:
    """The digest of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while piece := content.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_provenance(provenance: Provenance, folder: Path) -> None:
    """Write ``provenance.json``."""
    content = msgspec.json.format(msgspec.json.encode(provenance), indent=2)
    (folder / FILE_NAME).write_bytes(content + b"\n")


def read_provenance(folder: Path) -> Provenance:
    """Read ``provenance.json``.

    Raises:
        OSError: it is not there.
        msgspec.DecodeError: it is no such file.
    """
    return msgspec.json.decode((folder / FILE_NAME).read_bytes(), type=Provenance)
