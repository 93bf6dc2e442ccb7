"""``exp/vllm_cpu/install.sh``, as far as it goes without installing vLLM."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

SCRIPT = Path("exp/vllm_cpu/install.sh")


def test_an_environment_behind_a_link_is_not_cleared(tmp_path: Path) -> None:
    """Another checkout's environment survives, and the message says what to do."""
    shutil.copytree(SCRIPT.parent, tmp_path / SCRIPT.parent)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "precious").touch()
    (tmp_path / ".venv-vllm").symlink_to(theirs)
    command = ["bash", str(tmp_path / SCRIPT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1
    assert "remove the link first" in done.stderr
    assert (theirs / "precious").exists()
