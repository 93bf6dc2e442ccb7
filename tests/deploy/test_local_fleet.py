"""The fleet on this machine, with its real parts."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from exp.fleet.health import fetch, is_port_free
from exp.fleet.local import FIRST_ENGINE_PORT, FIRST_SIDECAR_PORT, GATEWAY_PORT, emulated_plan
from exp.fleet.state import Store
from exp.fleet.status import fleet_status
from tests.deploy.ports import free_offset
from tests.deploy.waiting import wait_until

PROJECT = Path(__file__).parents[2]
FIRST_PORTS = [FIRST_ENGINE_PORT, FIRST_SIDECAR_PORT]


@dataclass(frozen=True, slots=True)
class LocalFleet:
    """A fleet of two units with ports and a record of its own."""

    folder: Path
    offset: int

    def command(self, *options: str) -> list[str]:
        """What ``exp/setup.sh`` runs once it has installed."""
        command = [sys.executable, "-m", "exp.fleet", "--state-dir", str(self.folder)]
        return [*command, "--port-offset", str(self.offset), "--units", "2", *options]

    def setup(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        return subprocess.run(
            self.command(*options),
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=2400,
            check=False,
        )

    def ports(self) -> list[int]:
        """All ports that the fleet listens on."""
        base = [port + index for port in FIRST_PORTS for index in range(2)]
        return [port + self.offset for port in (*base, GATEWAY_PORT)]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[LocalFleet]:
    """Not started yet; whatever a test leaves running is stopped."""
    base = [port + index for port in FIRST_PORTS for index in range(2)]
    made = LocalFleet(tmp_path, free_offset([*base, GATEWAY_PORT], random.Random()))
    yield made
    made.setup("--stop")


def test_start_use_mend_stop(fleet: LocalFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command starts and uses a fleet; a killed sidecar is started again; stop ends all.

    An admin token in the environment is the gateway's, and that of those who ask it.
    """
    monkeypatch.setenv("ASTROLABE_GATEWAY_ADMIN_TOKEN", "a-token")
    fast = ("--speed", "20", "--gateway-option", "policy=round_robin")
    started = fleet.setup(*fast, "--requests", "3")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "All is healthy." in started.stdout
    assert f"http://127.0.0.1:{GATEWAY_PORT + fleet.offset}/v1" in started.stdout
    assert " round_robin " in started.stdout
    status = fleet.setup("--status").stdout
    assert status.count(" healthy ") == 5
    assert_recorded(status)

    pids = {(row.role, row.name): row.pid for row in fleet_status(Store(fleet.folder))}
    victim = pids["sidecar", "unit-2"]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    mended = fleet.setup(*fast, "--requests", "0")
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert "1 dead part was started again" in mended.stdout
    again = fleet.setup(*fast, "--requests", "0")
    assert "already running" in again.stdout

    other = fleet.setup("--speed", "20", "--requests", "0")
    assert other.returncode == 1
    assert "Stop it first" in other.stderr

    assert fleet.setup("--stop").stdout.count("stopped  ") == 5
    assert all(map(is_port_free, fleet.ports()))


def assert_recorded(status: str) -> None:
    """Each engine's state can be recorded under the name that ``--status`` lists."""
    names = re.findall(r"shm:\S+", status)
    assert len(names) == 2
    for name in names:
        command = [sys.executable, "-m", "predictor", "record", "--snapshot", name]
        recorded = subprocess.run(command, capture_output=True, timeout=240, check=True)
        assert json.loads(recorded.stdout)["engine_id"] == name.removeprefix("shm:")


def test_units_on_the_usual_ports_publish_under_their_own_names() -> None:
    """As the documents name them; a fleet beside them, on other ports, takes other names."""
    assert [part.engine_id for part in emulated_plan(2, 1.0, 0).parts] == [
        *("unit-1", "", "unit-2", "", ""),
    ]
    assert emulated_plan(1, 1.0, 1000).parts[0].engine_id == "unit-1-9001"


def test_stock_vidur_answers(fleet: LocalFleet) -> None:
    """With ``--backend vidur`` every prediction that a request is routed by comes from it."""
    options = ("--backend", "vidur", "--speed", "20", "--requests", "4")
    started = fleet.setup(*options)
    assert started.returncode == 0, started.stdout + started.stderr
    assert "4 requests, 0 failed, 0 routed by a fallback" in started.stdout
    for port in fleet.ports()[2:4]:
        metrics = fetch(f"http://127.0.0.1:{port}/metrics").decode()
        answers = re.findall(r"predictor_answers_total{(.+)} (\S+)", metrics)
        assert {labels.split(",")[0] for labels, _ in answers} == {'backend="vidur"'}
        assert sum(float(count) for _, count in answers) >= 4


def test_ctrl_c_during_the_start(fleet: LocalFleet) -> None:
    """Interrupted half way, everything that was started is stopped, and the next start works."""
    process = subprocess.Popen(fleet.command(), cwd=PROJECT, stdout=subprocess.DEVNULL)
    store = Store(fleet.folder)
    wait_until(lambda: len(fleet_status(store)) > 0)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert store.try_load() is None
    assert all(map(is_port_free, fleet.ports()))
