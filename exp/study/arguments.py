"""The command line of studies: what is to be run, and how."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from exp.study.case import TwinOptions
from exp.study.catalogue import STUDIES, build_study
from exp.study.code_version import PROJECT
from exp.study.errors import PlanError
from exp.study.execution import MODULES, Backend
from exp.study.plan import Scenario, Study
from exp.study.run import Options
from exp.study.scenarios import with_requests

PROG = "bash exp/experiment.sh"
EPILOG = """\
examples:
  bash exp/experiment.sh --list                      the studies
  bash exp/experiment.sh main --quick                does it work? a few minutes
  bash exp/experiment.sh main                        five seeds, all cores of this machine
  bash exp/experiment.sh hetero --systems token_load,astrolabe --rates 30,40
  bash exp/experiment.sh main --ray auto             on the Ray cluster that this machine is part of
  bash exp/experiment.sh main --backend emulated --rates 6 --requests 300 --no-capacity
  bash exp/experiment.sh main --backend cluster --gateway http://10.0.0.5:8200 --rates 10,20,30

Results: OUT/STUDY/TIME/{config.json,requests.parquet,summary.json,commit.txt,figures/}; the folder
is printed last. A study that was interrupted goes on where it stopped with the same command.

On a cluster the fleet is the one that is there: choose a scenario with as many units and rates that
fit them. Some of the gateway's settings can only be given when it starts; a run that wants others
fails and says which, so that systems may have to be run one after another (--systems). Its admin
token and an API key are read from ASTROLABE_GATEWAY_ADMIN_TOKEN and ASTROLABE_API_KEY.

ASTROLABE_STUDY_OPTIONS in the environment has options that stand before those of the command line,
which win: "--requests 60 --seeds 1 --no-capacity", say, to see whether a script works.
"""
OPTIONS_VARIABLE = "ASTROLABE_STUDY_OPTIONS"


@dataclass(frozen=True, slots=True)
class Command:
    """What was asked for."""

    study: Study
    options: Options
    num_processes: int | None
    """None: as many as fit."""
    ray_address: str | None
    has_figures: bool
    system_name: str


def parse(argv: Sequence[str]) -> Command:
    """Read the command line; ends the process for ``--help``, ``--list`` and errors of usage.

    Raises:
        PlanError: a name or a combination that does not exist.
    """
    argv = [*shlex.split(os.environ.get(OPTIONS_VARIABLE, "")), *argv]
    asked = _parser().parse_args(argv)
    if asked.list or asked.study is None:
        _print_studies()
        sys.exit(0 if asked.list else 2)
    study = _study(asked)
    return Command(
        study=study,
        options=_options(asked, argv, study),
        num_processes=asked.processes,
        ray_address=asked.ray,
        has_figures=asked.figures,
        system_name=asked.system_name,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description="Runs a study: scenarios x systems x rates x seeds, and the search for the"
        " highest rate that each system keeps up with.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("study", nargs="?", metavar="STUDY", help=", ".join(STUDIES))
    add("--list", action="store_true", help="tell what each study is, and end")
    _add_selection(parser.add_argument_group("what is run"))
    _add_place(parser.add_argument_group("where"))
    return parser


def _add_selection(group: Any) -> None:
    add = group.add_argument
    add("--quick", action="store_true", help="two seeds, fewer requests and rates")
    add("--seeds", type=_above_zero, metavar="N", help="how many (default: 5, with --quick 2)")
    add("--first-seed", type=int, default=1, metavar="SEED", help="N follow it (default 1)")
    add("--rates", type=_rates, metavar="R[,R...]", help="of the curves, in requests/s")
    add("--requests", type=_above_zero, metavar="N", help="of each run")
    add("--systems", type=_names, metavar="NAME[,NAME...]", help="only these")
    add("--scenarios", type=_names, metavar="NAME[,NAME...]", help="only these")
    add("--no-capacity", dest="capacity", action="store_false", help="curves only")
    add(
        "--trace",
        action="append",
        default=[],
        metavar="SOURCE=FILE",
        help="a public trace for the study extension (burstgpt, azure); may be repeated",
    )


def _add_place(group: Any) -> None:
    add = group.add_argument
    add("--backend", choices=MODULES, default="twin", help="(default: twin, the simulation)")
    add("--gateway", metavar="URL", help="of the cluster, with --backend cluster")
    add("--processes", type=_above_zero, metavar="N", help="runs at a time (default: as many as"
        " there are cores; real fleets: 1)")  # fmt: skip
    add("--ray", metavar="ADDRESS", help="run on a Ray cluster: its address, 'auto' or 'local'")
    add("--case-timeout-s", type=float, default=3_600.0, metavar="S", help="of one run")
    add(
        "--out",
        type=Path,
        default=PROJECT / "results",
        metavar="DIR",
        help="(default: the project's results)",
    )
    add(
        "--other-code",
        action="store_true",
        help="go on with runs of an earlier version of the code, too; commit.txt tells how many",
    )
    add("--no-figures", dest="figures", action="store_false", help="results only")
    add("--system-name", default="Astrolabe", metavar="NAME", help="in figures")


def _above_zero(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _rates(text: str) -> tuple[float, ...]:
    rates = tuple(sorted({float(part) for part in text.split(",")}))
    if not all(0 < rate < float("inf") for rate in rates):
        raise argparse.ArgumentTypeError(f"rates must be above 0: {text}")
    return rates


def _names(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(",") if part)


def _study(asked: argparse.Namespace) -> Study:
    study = build_study(asked.study, _traces(asked.trace), is_quick=asked.quick)
    if asked.backend != "twin":
        study = _without_twins(study)
    scenarios = _only("--scenarios", asked.scenarios, study.scenarios)
    systems = _only("--systems", asked.systems, study.systems)
    scenarios = tuple(_changed(one, asked) for one in scenarios)
    names = {one.name for one in systems}
    changed = msgspec.structs.replace(
        study,
        # A scenario for some of the systems only may be left without any.
        scenarios=tuple(one for one in scenarios if not one.only or names & set(one.only)),
        systems=systems,
        num_seeds=asked.seeds or study.num_seeds,
        baseline=study.baseline if study.baseline in names else None,
    )
    if not any(one.rates_per_s or one.capacity_near_per_s for one in changed.scenarios):
        raise PlanError("nothing is left to run: see --systems, --scenarios and --no-capacity")
    return changed


def _without_twins(study: Study) -> Study:
    """What real engines can run: they do not migrate requests, and nobody knows lengths ahead."""
    systems = tuple(one for one in study.systems if not one.migration and not one.lengths)
    scenarios = tuple(one for one in study.scenarios if one.twin == TwinOptions())
    names = {one.name for one in study.systems} | {one.name for one in study.scenarios}
    names -= {one.name for one in systems} | {one.name for one in scenarios}
    if names:
        print(f"left out, as only the twin can run it: {', '.join(sorted(names))}", file=sys.stderr)
    return msgspec.structs.replace(study, scenarios=scenarios, systems=systems)


def _changed(scenario: Scenario, asked: argparse.Namespace) -> Scenario:
    requests = asked.requests or scenario.workload.num_requests
    has_curve = scenario.rates_per_s or asked.scenarios
    return msgspec.structs.replace(
        scenario,
        workload=with_requests(scenario.workload, requests),
        rates_per_s=asked.rates if asked.rates and has_curve else scenario.rates_per_s,
        capacity_near_per_s=scenario.capacity_near_per_s if asked.capacity else None,
    )


def _only(flag: str, wanted: tuple[str, ...] | None, known: tuple[Any, ...]) -> tuple[Any, ...]:
    """Those wanted, in the order in which they are known; all if none is named."""
    by_name = {one.name: one for one in known}
    unknown = [name for name in wanted or () if name not in by_name]
    if unknown:
        raise PlanError(f"{flag} {','.join(unknown)}: the study has {', '.join(by_name)}")
    return tuple(one for one in known if not wanted or one.name in wanted)


def _traces(pairs: Sequence[str]) -> dict[str, str]:
    traces = {}
    for pair in pairs:
        source, equals, path = pair.partition("=")
        if not equals or source not in ("burstgpt", "azure"):
            raise PlanError(f"--trace {pair}: must be burstgpt=FILE or azure=FILE")
        if not Path(path).is_file():
            raise PlanError(f"--trace {pair}: no such file")
        traces[source] = str(Path(path).resolve())
    return traces


def _options(asked: argparse.Namespace, argv: Sequence[str], study: Study) -> Options:
    if (asked.backend == "cluster") != (asked.gateway is not None):
        raise PlanError("--gateway URL belongs to --backend cluster, which needs it")
    if asked.ray is not None and asked.backend != "twin":
        raise PlanError(f"--ray runs twins, not --backend {asked.backend}")
    return Options(
        backend=Backend(asked.backend, asked.gateway, asked.case_timeout_s),
        seeds=range(asked.first_seed, asked.first_seed + study.num_seeds),
        is_quick=asked.quick,
        out=asked.out,
        takes_other_code=asked.other_code,
        command=[PROG, *argv],
    )


def _print_studies() -> None:
    for name in STUDIES:
        study = build_study(name, {}, is_quick=False)
        print(f"{name:<18}{study.title} ({study.repeats})")
        for scenario in study.scenarios[:4]:
            print(f"{'':<20}{scenario.name}: {scenario.label}")
