"""A program called vllm for hosts without a GPU: vLLM's command line in front of an emulator."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

from predictor.vllm_plugin import TESTED_VLLM

STAND_IN = '''
"""Takes vLLM's command line and serves as an emulator."""
import os
import sys

def main():
    def value(flag):
        return sys.argv[sys.argv.index(flag) + 1]
    os.execv({python!r}, [
        {python!r}, "-m", "exp.emulator", "--port", value("--port"), "--speed", "50",
        "--model-config", "config/llama_config.json", "--gpu", "A30",
        "--engine-id", os.environ["ASTROLABE_ENGINE_ID"],
    ])
'''


def wheel(folder: Path) -> None:
    """A package called vllm, of the version that is installed, with a program of that name."""
    info = f"vllm-{TESTED_VLLM}.dist-info"
    with zipfile.ZipFile(folder / f"vllm-{TESTED_VLLM}-py3-none-any.whl", "w") as made:
        made.writestr("vllm.py", STAND_IN.format(python=sys.executable))
        metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {TESTED_VLLM}\n"
        made.writestr(f"{info}/METADATA", metadata)
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/entry_points.txt", "[console_scripts]\nvllm = vllm:main\n")
        made.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in made.namelist()))


def program(folder: Path, version: str) -> Path:
    """Make ``folder/vllm``, whose Python says that it has that version of vLLM."""
    info = folder / f"site/vllm-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n")
    (info / "top_level.txt").write_text("vllm\n")
    python = folder / "python3"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={folder}/site exec {sys.executable} "$@"\n')
    text = STAND_IN.format(python=sys.executable)
    (folder / "vllm").write_text(f"#!{python}\n{text}\nmain()\n")
    for made in (python, folder / "vllm"):
        made.chmod(0o755)
    return folder / "vllm"
