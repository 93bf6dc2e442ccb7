"""Deploying to the hosts of a cluster file, and looking at and stopping what was deployed.

Every host goes through the same steps; no host begins a step before all have ended the former one,
so a host that does not answer is found before anything is changed anywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from exp.fleet.errors import ClusterError, FleetError, HostError
from exp.fleet.hosts import HostPlan, host_plans
from exp.fleet.interrupts import interrupts_deferred
from exp.fleet.ssh import CANCELLED, Host
from exp.fleet.status import PartStatus, status_table
from exp.fleet.steps import STOP_TIMEOUT_S, Step, deployment_steps, node_script
from exp.fleet.tokens import has_admin_token, read_tokens
from wire.host_config import HostConfigs, load_host_configs
from wire.model_config import ConfigError

START_TIMEOUT_S = 600.0
REACH_TIMEOUT_S = 60.0
LOOPBACK = ("127.0.0.1", "localhost")

Answer = TypeVar("Answer")


def run(options: argparse.Namespace, project: Path) -> int:
    """Do what the command line asks of a cluster; returns the exit status."""
    try:
        configs = load_host_configs(options.hosts)
        plans = host_plans(configs, project)
    except ConfigError as error:
        raise FleetError(str(error)) from error
    cluster = Cluster(plans, options.ssh_config)
    if options.status:
        return cluster.show_status()
    if options.stop:
        return cluster.stop()
    tokens = read_tokens(options, os.environ)
    steps = deployment_steps(
        plans,
        configs,
        project,
        tokens=tokens,
        pip_args=options.pip_args,
        installs_vllm=options.install_vllm,
        start_timeout_s=options.start_timeout or START_TIMEOUT_S,
    )
    if options.dry_run:
        print(cluster.described(steps))
    else:
        cluster.deploy(steps, configs, project)
        print(_addresses(configs, options.hosts))
    if configs.bind_address not in LOOPBACK and not has_admin_token(tokens):
        print(
            "note: the gateway's admin API stays closed; a token opens it (--admin-token-file FILE,"
            " or ASTROLABE_GATEWAY_ADMIN_TOKEN)",
            file=sys.stderr,
        )
    return 0


class Cluster:
    """The hosts, and what can be done with all of them at once."""

    def __init__(self, plans: Sequence[HostPlan], ssh_config: Path | None) -> None:
        self._plans = plans
        self._hosts = [Host(plan.hostname, plan.target, ssh_config) for plan in plans]
        self._cancelled = threading.Event()

    def described(self, steps: Sequence[Sequence[Step]]) -> str:
        """Every command, none of which is run."""
        lines = []
        for host, host_steps in zip(self._hosts, steps, strict=True):
            lines.append(f"# {host.hostname}")
            for step in host_steps:
                given = f"  # stdin: {step.stdin_is}" if step.stdin_is else ""
                lines.append(f"{shlex.join(host.argv(step.script))}{given}")
        return "\n".join(lines)

    def deploy(self, steps: Sequence[Sequence[Step]], configs: HostConfigs, project: Path) -> None:
        """Run the steps on all hosts; when one fails, stop what was started.

        Raises:
            ClusterError: naming each host that failed and why.
        """
        fresh: list[int] = []
        try:
            for stage in zip(*steps, strict=True):
                print(f"  {stage[0].name:<8}", *(host.hostname for host in self._hosts), flush=True)
                self._run_stage(stage, fresh)
            self._check_reach(configs, project)
        except BaseException:
            with interrupts_deferred():
                self._undo(fresh)
            raise

    def stop(self) -> int:
        """Stop everything that was deployed; returns the exit status."""
        answers = self._on_all(lambda index: self._ask(index, "down"))
        for host, answer in zip(self._hosts, answers, strict=True):
            if isinstance(answer, HostError):
                print(answer, file=sys.stderr)
            else:
                print(f"{host.hostname}: " + ("" if answer else "nothing was running"))
                for title, pid in answer:
                    print(f"  stopped  {title} pid {pid}")
        return 1 if any(isinstance(answer, HostError) for answer in answers) else 0

    def show_status(self) -> int:
        """Print what runs where; returns 0 when all is healthy."""
        is_well = True
        answers = self._on_all(lambda index: self._ask(index, "status"))
        for host, answer in zip(self._hosts, answers, strict=True):
            if isinstance(answer, HostError) or not answer:
                is_well = False
                print(answer or f"{host.hostname}: nothing is deployed")
                continue
            rows = [PartStatus(**row) for row in answer]
            is_well = is_well and all(row.state == "healthy" for row in rows)
            print(f"{host.hostname}:\n{status_table(rows)}")
        return 0 if is_well else 1

    def _run_stage(self, stage: Sequence[Step], fresh: list[int]) -> None:
        def run_step(index: int) -> None:
            step = stage[index]
            try:
                answer = self._hosts[index].run(
                    step.script, self._cancelled, step.timeout_s, step.stdin, step.is_held
                )
            except HostError:
                if step.is_held:
                    self._cancelled.set()  # the others need not wait to become healthy
                raise
            if step.is_held and json.loads(answer) == self._plans[index].num_ours:
                fresh.append(index)  # nothing of ours ran there before

        answers = self._on_all(run_step)
        failures = [answer for answer in answers if isinstance(answer, HostError)]
        if failures:
            told = [failure for failure in failures if failure.reason != CANCELLED] or failures
            lines = "\n".join(f"  {failure}" for failure in told)
            raise ClusterError(
                f"{stage[0].name} failed on {len(told)} of {len(self._hosts)} hosts:\n{lines}\n"
                "Nothing that this deployment started is left running."
            )

    def _check_reach(self, configs: HostConfigs, project: Path) -> None:
        """That the gateway's host reaches the units: all else is asked on the units' own hosts."""
        units = configs.units(project)
        urls = [url for unit in units for url in (unit.engine_url, unit.predictor_url)]
        names = [plan.hostname for plan in self._plans]
        index = names.index(configs.scheduler_hostname)
        script = node_script(self._plans[index], "reach")
        answer = self._hosts[index].run(
            script, self._cancelled, REACH_TIMEOUT_S, json.dumps(urls).encode() + b"\n"
        )
        if unreached := json.loads(answer):
            raise ClusterError(
                f"The gateway on {configs.scheduler_hostname} cannot reach {', '.join(unreached)}:"
                " open these ports to it, and let vLLM listen on all addresses (--host 0.0.0.0)."
                "\nNothing that this deployment started is left running."
            )

    def _undo(self, fresh: Sequence[int]) -> None:
        self._cancelled = threading.Event()

        def stop_fresh(index: int) -> None:
            if index in fresh:
                self._ask(index, "down")

        for answer in self._on_all(stop_fresh):
            if isinstance(answer, HostError):
                print(f"Could not be stopped: {answer}", file=sys.stderr)

    def _ask(self, index: int, action: str) -> list[Any]:
        script = node_script(self._plans[index], action)
        answer = self._hosts[index].run(script, self._cancelled, STOP_TIMEOUT_S)
        rows: list[Any] = json.loads(answer)
        return rows

    def _on_all(self, task: Callable[[int], Answer]) -> list[Answer | HostError]:
        """What the task answers for each host, asked all at once."""
        with ThreadPoolExecutor(len(self._hosts)) as pool:
            futures = [pool.submit(_answer_or_error, task, i) for i in range(len(self._hosts))]
            try:
                wait(futures)
            except KeyboardInterrupt:
                self._cancelled.set()  # leaving the block waits for the tasks to undo their work
                raise
        return [future.result() for future in futures]


def _answer_or_error(task: Callable[[int], Answer], index: int) -> Answer | HostError:
    try:
        return task(index)
    except HostError as error:
        return error


def _addresses(configs: HostConfigs, path: Path) -> str:
    gateway = f"http://{configs.scheduler_hostname}:{configs.scheduler.port}"
    return f"""
The fleet is running. Your OpenAI client's base URL: {gateway}/v1

  curl {gateway}/v1/models

  status   bash exp/setup.sh --status --hosts {path}
  stop     bash exp/setup.sh --stop --hosts {path}"""
