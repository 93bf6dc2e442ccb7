"""``python -m exp.study``, called by ``exp/experiment.sh``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from exp.study.arguments import Command, parse
from exp.study.errors import StudyError
from exp.study.executors import Executor, LocalExecutor, RayExecutor
from exp.study.report import report
from exp.study.run import run_study

FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130
FIGURE_TIMEOUT_S = 600.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run, report, draw; the folder of the results is the last line printed.

    1: runs or figures failed; 2: options that cannot be met, or a study that could not go on.
    """
    try:
        command = parse(sys.argv[1:] if argv is None else argv)
        with closing(_executor(command)) as executor:
            folder, summary = run_study(command.study, command.options, executor)
    except StudyError as error:
        print(f"error: {error}", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return INTERRUPTED
    print(report(command.study, summary), file=sys.stderr)
    is_drawn = not command.has_figures or _draw(command, folder)
    print(folder)
    return 0 if is_drawn and not any(case.error for case in summary.cases) else FAILED


def _executor(command: Command) -> Executor:
    backend = command.options.backend
    if command.ray_address is not None:
        return RayExecutor(backend, command.ray_address, command.num_processes)
    # Real fleets on one machine, or runs on one fleet, would disturb one another.
    most = (os.cpu_count() or 1) if backend.name == "twin" else 1
    return LocalExecutor(backend, command.num_processes or most)


def _draw(command: Command, folder: Path) -> bool:
    """Whether all figures could be made; each has a process of its own."""
    is_drawn = True
    for name in (*command.study.plots, "make_report"):
        call = [sys.executable, "-m", f"analysis.{name}", "--results", str(folder)]
        call += ["--system-name", command.system_name]
        try:
            ended = subprocess.run(call, stdout=sys.stderr, timeout=FIGURE_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            print(f"error: analysis.{name} took too long", file=sys.stderr)
            is_drawn = False
        else:
            is_drawn = is_drawn and ended.returncode == 0
    return is_drawn


if __name__ == "__main__":
    sys.exit(main())
