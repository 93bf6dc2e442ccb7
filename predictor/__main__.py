"""``python -m predictor``: the sidecar's commands."""

from __future__ import annotations

import importlib
import sys

USAGE = """usage: python -m predictor COMMAND [OPTIONS]

Predicts what a request would meet on one vLLM server.

commands (COMMAND --help lists the options of each):
  serve    answer predictions over HTTP, next to a vLLM server
  whatif   answer a question from files: a snapshot and a request
  record   record snapshots of a live engine
  profile  measure, import or print step times
  compile  compile the what-if ahead of the first start

examples:
  python -m predictor serve --port 8101 --engine-url http://127.0.0.1:8001 --engine-id unit-1 \\
      --model-config config/llama_config.json --gpu A30
  python -m predictor record --snapshot shm:unit-1 --out snapshot.json
  python -m predictor whatif --snapshot snapshot.json --request request.json
"""

COMMANDS = {
    "serve": "predictor.serve_command",
    "whatif": "predictor.whatif_command",
    "record": "predictor.record_command",
    "profile": "predictor.profile_command",
    "compile": "predictor.compile_command",
}
"""Modules with a ``main(arguments) -> exit status``. Imported when called for: each has other heavy
imports, of which the others need none."""


def main(arguments: list[str]) -> int:
    """Run a command; 2 for a command line, file or setting that cannot be used."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    module = COMMANDS.get(arguments[0])
    if module is None:
        print(f"error: no command {arguments[0]!r}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:
        command = importlib.import_module(module)
    except RuntimeError as error:
        if "cannot cache function" not in str(error):
            raise
        print(
            f"error: {error}; set NUMBA_CACHE_DIR to a folder that can be written", file=sys.stderr
        )
        return 2
    status: int = command.main(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
