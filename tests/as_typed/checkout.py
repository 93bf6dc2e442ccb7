"""A copy of the project as somebody has it who has cloned and installed it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
EXTRAS = ("exp", "exp,analysis", "exp,estimator")
"""Those that the documents install: ``pip`` would find all of them in the project's own ``.venv``,
which takes the place of having it look."""

REAL_VLLM = (".venv-vllm", ".astrolabe/models/SmolLM2-135M-Instruct")
"""What ``exp/vllm_cpu/install.sh`` has made, if it was run."""


def make_checkout(folder: Path, compiled_in: Path = PROJECT) -> Path:
    """The project's files in ``folder/astrolabe``, with a ``.venv`` that runs these copies.

    The libraries are the project's own, so that nothing is installed; what has been compiled in
    another checkout is taken along.
    """
    made = folder / "astrolabe"
    for name in _files():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        # With its times: numba takes compiled code for out of date whose source is newer.
        shutil.copy2(PROJECT / name, made / name)
    for package in ("predictor", "exp"):
        for compiled in (compiled_in / package).glob("**/kernel/__pycache__"):
            shutil.copytree(compiled, made / compiled.relative_to(compiled_in))
    _make_environment(made)
    for name in REAL_VLLM:
        if (PROJECT / name).exists():
            (made / name).parent.mkdir(parents=True, exist_ok=True)
            (made / name).symlink_to((PROJECT / name).resolve())
    return made


def compile_kernel(checkout: Path) -> None:
    """As ``exp/setup.sh`` does; a second where that is done already."""
    command = [str(checkout / ".venv/bin/python"), "-m", "predictor", "compile"]
    subprocess.run(command, cwd=checkout, check=True, stdout=subprocess.DEVNULL)


def _files() -> list[str]:
    """Of the project, those not committed yet included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [name for name in listed.stdout.split("\0") if name]
    return [name for name in names if (PROJECT / name).is_file()]


def _make_environment(checkout: Path) -> None:
    """An environment whose own folder of packages leads to the copy first, then to the libraries
    that these tests run with."""
    folder = checkout / ".venv"
    venv.create(folder, symlinks=True)
    python = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = folder / "lib" / python / "site-packages"
    lines = [str(checkout), f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})"]
    (packages / "checkout.pth").write_text("\n".join(lines) + "\n")
    pip = folder / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{folder}/bin/python" -m pip "$@"\n')
    pip.chmod(0o755)
    _stamp(checkout)


def _stamp(checkout: Path) -> None:
    """Say to ``exp/setup.sh``, in its own words, that all of this is installed and compiled."""
    script = (checkout / "exp/setup.sh").read_text()
    functions = "\n".join(_function(script, name) for name in ("check", "kernel"))
    for extras in EXTRAS:
        call = f'{functions}\nextras={extras}\ncheck >.venv/installed-"$extras"'
        subprocess.run(["bash", "-euc", call], cwd=checkout, check=True)
    call = f"{functions}\nkernel >.venv/compiled"
    subprocess.run(["bash", "-euc", call], cwd=checkout, check=True)


def _function(script: str, name: str) -> str:
    """The text of a shell function whose closing brace stands at the start of a line."""
    return script[script.index(f"\n{name}() {{") :].split("\n}\n")[0] + "\n}\n"
