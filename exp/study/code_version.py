"""Which code ran: results of another version are not gone on with."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).parents[2]
PARTS = (
    "wire",
    "predictor",
    "global_scheduler",
    "length_estimation",
    "config",
    "exp/emulator",
    "exp/study/backends",
    "exp/study/case.py",
    "exp/study/records.py",
    "exp/twin",
    "exp/workloads",
)
"""What the outcome of a run depends on."""
GIT_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class CodeVersion:
    """Of the working tree."""

    digest: str
    """Of the contents of ``PARTS``."""
    text: str
    """For people: the commit, and what differs from it."""


def code_version(project: Path = PROJECT) -> CodeVersion:
    """As the files are now."""
    digest = _digest(project)
    commit = _try_git(project, "rev-parse", "HEAD")
    if commit is None:
        return CodeVersion(digest, f"code {digest}, not in a git repository")
    changed = _try_git(project, "status", "--porcelain") or ""
    state = f"dirty, {len(changed.splitlines())} files differ:\n{changed}" if changed else "clean"
    return CodeVersion(digest, f"commit {commit}, code {digest}, {state}")


def _digest(project: Path) -> str:
    total = hashlib.sha256()
    for part in PARTS:
        root = project / part
        files = [root] if root.is_file() else sorted(root.rglob("*"))
        for file in files:
            if file.suffix in (".py", ".json", ".csv", ".env", ".onnx") and file.is_file():
                total.update(str(file.relative_to(project)).encode() + b"\0")
                total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()[:12]


def _try_git(project: Path, *arguments: str) -> str | None:
    try:
        ended = subprocess.run(
            ["git", "-C", str(project), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ended.stdout.rstrip()
