"""``python -m exp.fleet.node up|down|status|reach``: the part of a deployment that runs on a host.

``up`` reads two lines of JSON from stdin: a plan, and what is secret in the environment, by role.
It watches stdin from then on: when it is closed before all is healthy, the deploying machine has
gone, and what was started is stopped again.
``reach`` reads a JSON list of servers and answers those that this host cannot reach.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from exp.fleet.display import TerminalDisplay
from exp.fleet.errors import FleetError
from exp.fleet.health import healthy_titles
from exp.fleet.interrupts import interrupt_on_termination
from exp.fleet.plan import Part, from_json
from exp.fleet.state import DEFAULT_FOLDER, Store
from exp.fleet.status import as_dict, fleet_status
from exp.fleet.supervisor import Supervisor

VLLM_BIN = ".venv-vllm/bin"
"""Where ``exp/install_vllm.sh`` puts it."""


def main() -> int:
    """Do what is asked; the answer is one JSON value on stdout."""
    parser = argparse.ArgumentParser(prog="python -m exp.fleet.node", description=__doc__)
    parser.add_argument("action", choices=("up", "down", "status", "reach"))
    parser.add_argument("--start-timeout", type=float, default=600.0)
    options = parser.parse_args()
    interrupt_on_termination()
    store = Store(DEFAULT_FOLDER.resolve())
    supervisor = Supervisor(
        store=store,
        display=TerminalDisplay(sys.stderr),
        project=Path.cwd(),
        start_timeout_s=options.start_timeout,
    )
    try:
        print(json.dumps(answer(options.action, store, supervisor)))
    except FleetError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def answer(action: str, store: Store, supervisor: Supervisor) -> object:
    """The JSON value for an action."""
    if action == "status":
        return [as_dict(row) for row in fleet_status(store)]
    if action == "reach":
        return unreached(json.loads(sys.stdin.readline()))
    with store.locked():
        if action == "down":
            return [[item.part.title, item.process.pid] for item in supervisor.down()]
        plan, env = from_json(sys.stdin.readline()), json.loads(sys.stdin.readline())
        threading.Thread(target=_interrupt_at_end_of_stdin, daemon=True).start()
        return replace(supervisor, env=_with_installed_vllm(env)).up(plan)


def _with_installed_vllm(env: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    """Engines find the vLLM that was installed here before any other."""
    folder = Path(VLLM_BIN).resolve()
    if not folder.is_dir():
        return env
    path = f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**env, "engine": {**env.get("engine", {}), "PATH": path}}


def unreached(urls: list[str]) -> list[str]:
    """The servers that do not answer ``/health`` from here."""
    parts = [Part(role="engine", name=url, command=(), url=url) for url in urls]
    healthy = healthy_titles(parts)
    return [part.url for part in parts if part.title not in healthy]


def _interrupt_at_end_of_stdin() -> None:
    # os.read, as the interpreter cannot end while another thread holds sys.stdin's lock.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
