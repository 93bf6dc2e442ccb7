"""A fleet of one's own beside whatever runs, for the time that a study takes."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exp.fleet.display import Display, TerminalDisplay
from exp.fleet.health import is_port_free, wait_for_units
from exp.fleet.local import FIRST_ENGINE_PORT, FIRST_SIDECAR_PORT, GATEWAY_PORT
from exp.fleet.plan import Plan
from exp.fleet.state import Store
from exp.fleet.supervisor import Supervisor

PROJECT = Path(__file__).resolve().parents[2]
PORT_OFFSET = 1_000
"""Plans made with it take no port of a fleet with the usual ones."""
START_TIMEOUT_S = 600.0
OFFSETS = range(2_000, 22_000, 10)
"""Below the ports that clients are given."""


def free_port_offset(num_units: int, rng: random.Random) -> int:
    """One with which a plan of so many units takes no port that is in use."""
    firsts = (FIRST_ENGINE_PORT, FIRST_SIDECAR_PORT)
    ports = [GATEWAY_PORT, *(first + index for first in firsts for index in range(num_units))]
    while True:
        offset = rng.choice(OFFSETS)
        if all(is_port_free(port + offset) for port in ports):
            return offset


@contextmanager
def supervised_fleet(plan: Plan, display: Display | None = None) -> Iterator[Supervisor]:
    """Runs the fleet for as long as the block lasts; gives what can mend it meanwhile.

    Without a ``display`` the terminal tells what is ready.
    """
    with tempfile.TemporaryDirectory(prefix="astrolabe-") as folder:
        store = Store(Path(folder))
        supervisor = Supervisor(
            store=store,
            display=display or TerminalDisplay(sys.stderr),
            project=PROJECT,
            start_timeout_s=START_TIMEOUT_S,
        )
        with store.locked():
            supervisor.up(plan)
            try:
                wait_for_units(plan.parts[-1].url)
                yield supervisor
            finally:
                supervisor.down()


@contextmanager
def temporary_fleet(plan: Plan, display: Display | None = None) -> Iterator[str]:
    """Runs the fleet for as long as the block lasts; gives the gateway's address."""
    with supervised_fleet(plan, display):
        yield plan.parts[-1].url
