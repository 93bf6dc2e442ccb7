"""A fleet comes up whole, is mended, and is taken down; small web servers stand for its parts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from exp.fleet.display import TerminalDisplay
from exp.fleet.errors import BusyError, FleetError, OtherFleetError, PortInUseError, StartError
from exp.fleet.health import is_port_free
from exp.fleet.plan import Part, Plan, to_json
from exp.fleet.state import Fleet, Store
from exp.fleet.status import fleet_status
from exp.fleet.supervisor import Supervisor
from global_scheduler.provisioning.processes import is_running
from tests.deploy.ports import free_ports
from tests.deploy.waiting import wait_until


def web_server(name: str, port: int) -> Part:
    """A part that becomes healthy."""
    command = (sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    return Part(role="engine", name=name, command=command, url=url, health_path="/")


def program(name: str, port: int, text: str) -> Part:
    """A part that never becomes healthy."""
    command = (sys.executable, "-c", text)
    return Part(role="sidecar", name=name, command=command, url=f"http://127.0.0.1:{port}")


def two_servers() -> Plan:
    """A plan that can come up."""
    first, second = free_ports(2)
    return Plan(label="two", parts=(web_server("a", first), web_server("b", second)))


def make_supervisor(folder: Path, start_timeout_s: float = 240.0) -> Supervisor:
    """A supervisor whose fleet is recorded in the folder."""
    store = Store(folder / "fleet")
    store.logs.mkdir(parents=True)
    return Supervisor(
        store=store,
        display=TerminalDisplay(sys.stdout),
        project=folder,
        start_timeout_s=start_timeout_s,
    )


def test_up_is_repeatable_and_mends(tmp_path: Path) -> None:
    """A second start finds all running; after a part was killed only that part is started."""
    supervisor, plan = make_supervisor(tmp_path), two_servers()
    try:
        assert supervisor.up(plan) == 2
        assert supervisor.up(plan) == 0
        before = {row.name: row.pid for row in fleet_status(supervisor.store)}
        assert before["b"] is not None
        os.kill(before["b"], signal.SIGKILL)
        wait_until(lambda: fleet_status(supervisor.store)[1].state == "not running")
        assert supervisor.up(plan) == 1
        after = {row.name: row.pid for row in fleet_status(supervisor.store)}
        assert after["a"] == before["a"]
        assert after["b"] != before["b"]
    finally:
        stopped = supervisor.down()
    assert {item.part.name for item in stopped} == {"a", "b"}
    assert all(is_port_free(part.port) for part in plan.parts)
    assert supervisor.down() == []


def test_another_fleet_must_be_stopped_first(tmp_path: Path) -> None:
    """A plan that differs from the running one is refused, and the running one is left alone."""
    supervisor, plan = make_supervisor(tmp_path), two_servers()
    supervisor.up(plan)
    try:
        with pytest.raises(OtherFleetError, match="--stop"):
            supervisor.up(two_servers())
        assert [row.state for row in fleet_status(supervisor.store)] == ["healthy", "healthy"]
    finally:
        supervisor.down()


def test_a_taken_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    """A port that someone else listens on stops the start before anything runs."""
    supervisor, plan = make_supervisor(tmp_path), two_servers()
    port = plan.parts[1].port
    with (
        socket.create_server(("127.0.0.1", port)),
        pytest.raises(PortInUseError, match=f"Port {port}, for the engine b"),
    ):
        supervisor.up(plan)
    assert fleet_status(supervisor.store) == []
    assert is_port_free(plan.parts[0].port)


def test_a_part_that_dies_shows_its_last_words_and_the_others_stop(tmp_path: Path) -> None:
    """The error carries the end of the dead part's log, and no part is left running."""
    supervisor, (first, second) = make_supervisor(tmp_path), free_ports(2)
    broken = program("bad", second, "raise SystemExit('no such model: x')")
    with pytest.raises(StartError, match="no such model: x"):
        supervisor.up(Plan(label="broken", parts=(web_server("a", first), broken)))
    assert supervisor.store.try_load() is None
    assert is_port_free(first)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """A command that is not installed is an error of its part, not a traceback."""
    (port,) = free_ports(1)
    part = Part(role="engine", name="a", command=("no-such-vllm",), url=f"http://127.0.0.1:{port}")
    with pytest.raises(StartError, match="engine a cannot be started: no-such-vllm: No such file"):
        make_supervisor(tmp_path).up(Plan(label="missing", parts=(part,)))


def test_a_part_that_never_answers_is_named_after_the_deadline(tmp_path: Path) -> None:
    """Waiting ends at the deadline with the address that did not answer."""
    supervisor, (port,) = make_supervisor(tmp_path, start_timeout_s=0.5), free_ports(1)
    silent = program("quiet", port, "import time; time.sleep(60)")
    with pytest.raises(StartError, match=f"no 200 from http://127.0.0.1:{port}/health"):
        supervisor.up(Plan(label="silent", parts=(silent,)))
    assert supervisor.store.try_load() is None


def test_only_one_set_up_at_a_time(tmp_path: Path) -> None:
    """A fleet that is being worked on is not worked on by another."""
    store = make_supervisor(tmp_path).store
    with store.locked(), pytest.raises(BusyError), store.locked():
        pass


def test_a_broken_record_is_named(tmp_path: Path) -> None:
    """A record that is not one is an error with its path, and is not overwritten."""
    supervisor = make_supervisor(tmp_path)
    (supervisor.store.folder / "fleet.json").write_text('{"format": 1, "plan": 3}')
    with pytest.raises(FleetError, match=r"fleet\.json is not a fleet's record"):
        supervisor.up(two_servers())


@pytest.mark.parametrize("way", ["SIGINT", "SIGTERM", "end of stdin"])
def test_an_interrupted_start_leaves_nothing_running(tmp_path: Path, way: str) -> None:
    """Ctrl-C, TERM or the end of the deploying machine: what had been started is stopped."""
    first, second = free_ports(2)
    silent = program("quiet", second, "import time; time.sleep(60)")
    plan = Plan(label="interrupted", parts=(web_server("a", first), silent))
    process = subprocess.Popen(
        [sys.executable, "-m", "exp.fleet.node", "up"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdin
    process.stdin.write(to_json(plan).encode() + b"\n{}\n")
    process.stdin.flush()
    store = Store(tmp_path / ".astrolabe/fleet")
    wait_until(lambda: [row.state for row in fleet_status(store)][:1] == ["healthy"])
    wait_until(lambda: len((store.try_load() or Fleet(plan=plan)).started) == 2)
    pids = [item.process for item in (store.try_load() or Fleet(plan=plan)).started]
    if way == "end of stdin":
        process.stdin.close()
    else:
        process.send_signal(getattr(signal, way))
    assert process.wait(20) == 130
    process.stdin.close()
    assert store.try_load() is None
    assert len(pids) == 2
    assert not any(map(is_running, pids))
