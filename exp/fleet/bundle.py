"""The project as an archive, to be unpacked on another host."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterable
from pathlib import Path

NOT_SENT = {".git", ".venv", ".venv-vllm", ".astrolabe", "__pycache__"}


def project_files(project: Path) -> list[Path]:
    """The tracked files that are there, or, where git is of no use, all but what is made here."""
    command = ["git", "-C", str(project), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True, timeout=30).stdout
    except (OSError, subprocess.CalledProcessError):
        found = sorted(path.relative_to(project) for path in project.rglob("*"))
        return [
            path for path in found if not NOT_SENT & set(path.parts) and (project / path).is_file()
        ]
    names = listed.decode().split("\0")
    return [Path(name) for name in names if name and (project / name).is_file()]


def pack(project: Path, extra: Iterable[Path], without: Iterable[Path] = ()) -> bytes:
    """A gzipped tar of the project and ``extra`` files, all relative to the project's folder.

    Files ``without``, wherever they are, are left out: they hold what no host should keep.
    """
    left_out = {path.resolve() for path in without}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for path in sorted({*project_files(project), *extra}):
            if (project / path).resolve() in left_out:
                continue
            archive.add(project / path, arcname=str(path), recursive=False)
    return packed.getvalue()
