"""``python -m length_estimation <sample|train|eval|tag|serve>``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

COMMANDS = {
    "sample": ("length_estimation.sample", [], "make a data set of prompts and answers' lengths"),
    "train": ("length_estimation.train_roberta", [], "fine-tune an encoder on a data set"),
    "eval": ("length_estimation.eval_roberta", [], "measure a model, next to baselines"),
    "tag": ("length_estimation.eval_roberta", ["--tag-data"], "write predictions into a data set"),
    "serve": ("length_estimation.online.serve_command", [], "answer questions over HTTP"),
}
"""For each command its module, options it implies, and what it does.

Modules are imported when their command is called: serving must not need what training needs.
"""
USAGE = "usage: python -m length_estimation <command> [--help]\n\n" + "\n".join(
    f"  {name:<8} {text}" for name, (_, _, text) in COMMANDS.items()
)


def main(argv: Sequence[str]) -> int:
    """Hand over to the command."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f"length_estimation: no command {argv[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    module_name, implied, _ = COMMANDS[argv[0]]
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] == "length_estimation":
            raise
        print(
            f"length_estimation {argv[0]} needs {error.name}, which is not installed: "
            "pip install 'astrolabe-llm[estimator]'",
            file=sys.stderr,
        )
        return 2
    return int(module.main([*implied, *argv[1:]]) or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
