"""``python -m length_estimation <sample|train|eval|tag|serve>``."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from length_estimation.commands import installation

COMMANDS = {
    "sample": ("length_estimation.commands.sample", [], "make a data set of prompts and lengths"),
    "train": ("length_estimation.commands.train", [], "fine-tune an encoder on a data set"),
    "eval": ("length_estimation.commands.evaluate", [], "measure a model, next to baselines"),
    "tag": (
        "length_estimation.commands.evaluate",
        ["--tag-only"],
        "write predictions into a data set",
    ),
    "serve": ("length_estimation.online.serve_command", [], "answer questions over HTTP"),
}
"""For each command its module, options it implies, and what it does.

Modules are imported when their command is called: serving must not need what training needs.
"""
USAGE = "usage: python -m length_estimation <command> [--help]\n\n" + "\n".join(
    f"  {name:<8} {text}" for name, (_, _, text) in COMMANDS.items()
)


def run(argv: Sequence[str]) -> int:
    """The process's own command: where this Python lacks a package, the checkout's ``.venv`` runs.

    ``exp/setup.sh`` installs there, so that the same line works before and after it is activated.
    """
    try:
        return _run(argv, switches=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def main(argv: Sequence[str]) -> int:
    """Hand over to the command; 2 for one that does not exist or lacks a package."""
    return _run(argv, switches=False)


def _run(argv: Sequence[str], *, switches: bool) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"length_estimation: no command {argv[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    module_name, implied, _ = COMMANDS[argv[0]]
    # Read when torch is loaded. Threads that wait by spinning take the cores from those they wait
    # for: on busy cores a step of training took three times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        module = importlib.import_module(module_name)
        return int(module.main([*implied, *argv[1:]]) or 0)
    except ModuleNotFoundError as error:
        lacking = (error.name or "").partition(".")[0]
        if lacking in ("", "length_estimation", "wire"):
            raise
    if switches:
        installation.switch_to_venv(lacking)
    print(installation.how_to_install(argv[0], lacking), file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
