"""``python -m exp.twin``: play one case, or hold the twin against what it stands for."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from pydantic import ValidationError

from exp.fleet.errors import FleetError
from exp.study.case import Case
from exp.study.errors import StudyError
from exp.study.figures import case_figures
from exp.study.tables import to_table, write_table
from exp.twin.errors import TwinError
from exp.twin.run import run_case
from exp.twin.validation import against_emulated, against_vidur, against_vllm
from exp.twin.validation.comparison import Comparison, Say, table
from exp.workloads.errors import WorkloadError
from wire.model_config import ConfigError

BEYOND_LIMITS, UNUSABLE, INTERRUPTED = 1, 2, 130
Compare = Callable[[Sequence[int], int | None, Say], list[Comparison]]
AGAINST: dict[str, Compare] = {
    "vidur": against_vidur.compare,
    "emulated": against_emulated.compare,
    "vllm": against_vllm.compare,
}
FAILURES = (
    *(TwinError, FleetError, StudyError, WorkloadError, ConfigError, OSError),
    *(msgspec.MsgspecError, ValidationError),
)
EPILOG = """\
Mean E2E latency must be within 2 % of stock Vidur's; against the emulated fleet and real vLLM, TTFT
and E2E latency at the median within 10 %, at the 99th percentile within 20 %. Figures are of the
requests of all seeds together. Vidur takes a minute; real runs happen in real time, for which this
machine should have nothing else to do: all together with three seeds about 40 minutes.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """1: a figure is beyond its limit; 2: something could not be done."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
    except FAILURES as error:
        _say_error(error)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m exp.twin", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    play = commands.add_parser("run", help="play one case and print its figures as JSON")
    play.add_argument("case", type=Path, metavar="CASE.json", help="see exp/study/case.py")
    play.add_argument("--requests", type=Path, metavar="FILE", help="keep the requests, as Parquet")
    play.set_defaults(run=_play)
    validate = commands.add_parser(
        "validate",
        help="hold the twin against stock Vidur, the emulated fleet and real vLLM",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = validate.add_argument
    add("--against", choices=(*AGAINST, "all"), default="all", help="default: all")
    add("--seeds", type=_above_zero, default=3, metavar="N", help="how many (default 3)")
    add("--first-seed", type=int, default=1, metavar="SEED", help="N follow it (default 1)")
    add("--requests", type=_above_zero, metavar="N", help="of each run")
    add("--json", type=Path, metavar="FILE", help="keep the figures there")
    add("--report-only", action="store_true", help="exit with 0 whatever the figures are")
    validate.set_defaults(run=_validate)
    return parser


def _above_zero(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _play(options: argparse.Namespace) -> int:
    case = msgspec.json.decode(options.case.read_bytes(), type=Case)
    requests = to_table(run_case(case))
    if options.requests:
        write_table(requests, options.requests)
    print(json.dumps(case_figures(requests), indent=2))
    return 0


def _validate(options: argparse.Namespace) -> int:
    """What cannot be compared does not keep the others from it."""
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    names = list(AGAINST) if options.against == "all" else [options.against]
    comparisons: list[Comparison] = []
    num_failed = 0
    for name in names:
        try:
            comparisons += AGAINST[name](seeds, options.requests, _say)
        except FAILURES as error:
            _say_error(error)
            num_failed += 1
    rows = [row for one in comparisons for row in one.rows()]
    print(table(rows))
    for one in comparisons:
        print(
            f"{one.name}: {', '.join(f'{name} {value:.4g}' for name, value in one.notes.items())}"
        )
    if options.json:
        found = {"seeds": list(seeds), "comparisons": [one.to_json() for one in comparisons]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    if num_failed:
        return UNUSABLE
    is_good = options.report_only or all(row.is_within for row in rows)
    return 0 if is_good else BEYOND_LIMITS


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _say_error(error: BaseException) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
