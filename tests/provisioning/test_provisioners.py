"""The three ways to start and stop a unit, with real processes, a real sshd and real HTTP."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from global_scheduler.provisioning.base import ProvisionerFailed
from global_scheduler.provisioning.local_process import LocalProcess
from global_scheduler.provisioning.processes import try_start_mark
from global_scheduler.provisioning.ssh_command import SshCommand
from global_scheduler.provisioning.standby import (
    ProcessSpec,
    SshSpec,
    StandbyUnit,
    WebhookSpec,
    load_standby_units,
)
from global_scheduler.provisioning.webhook import Webhook
from tests.deploy.sshd import running_sshd
from tests.deploy.waiting import wait_until
from tests.global_scheduler.fleet import reply, serving
from wire.model_config import ConfigError

PROJECT = Path(__file__).parents[2]
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(os.getpid(), child.pid, os.environ["COLOUR"], flush=True)
time.sleep(60)
"""


def process(*commands: str) -> ProcessSpec:
    """How a unit is started here."""
    return ProcessSpec(kind="process", commands=list(commands), env={"COLOUR": "blue"})


def lives(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    return try_start_mark(pid) is not None


def test_processes_are_logged_and_ended_with_their_children(tmp_path: Path) -> None:
    """Output goes to a log each; a stop leaves nothing, not even a zombie."""
    command = shlex.join([sys.executable, "-c", PARENT])
    unit = LocalProcess("s1", process(command, "sleep 60"), tmp_path / "logs")
    log = tmp_path / "logs/s1-1.log"

    async def run() -> None:
        await unit.start()
        wait_until(lambda: "blue" in log.read_text())
        assert unit.try_failure() is None
        pids = [int(word) for word in log.read_text().split()[:2]]
        assert all(map(lives, pids))
        await unit.stop()
        wait_until(lambda: not any(map(lives, pids)))
        assert str(pids[0]) not in os.listdir("/proc")
        await unit.stop()  # does no harm

    asyncio.run(run())


def test_a_process_that_ends_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    """The reason names the command, what it said and the log."""
    command = f"{sys.executable} -c 'raise SystemExit(\"no GPU left\")'"
    unit = LocalProcess("s1", process("sleep 60", command), tmp_path)

    async def run() -> None:
        await unit.start()
        wait_until(lambda: unit.try_failure() is not None)
        assert "has ended; it said: no GPU left" in (unit.try_failure() or "")
        assert str(tmp_path / "s1-2.log") in (unit.try_failure() or "")
        await unit.stop()

    asyncio.run(run())


def test_a_command_that_is_not_there_leaves_nothing_running(tmp_path: Path) -> None:
    """The first command's process is ended when the second cannot be started."""
    command = shlex.join([sys.executable, "-c", PARENT])
    unit = LocalProcess("s1", process(command, "no-such-program --x"), tmp_path)
    with pytest.raises(ProvisionerFailed, match="cannot start: no-such-program: No such file"):
        asyncio.run(unit.start())
    assert unit.try_failure() is None
    assert not (tmp_path / "s1.json").exists()


def test_what_a_crashed_gateway_has_started_is_stopped_by_the_next(tmp_path: Path) -> None:
    """The record tells the processes, and a stranger with a recycled id is let alone."""

    async def run() -> None:
        await LocalProcess("s1", process("sleep 60"), tmp_path).start()
        (entry,) = msgspec.json.decode((tmp_path / "s1.json").read_bytes())
        heir = LocalProcess("s1", process("sleep 60"), tmp_path)
        assert heir.try_failure() is None
        await heir.stop()
        assert not lives(entry["pid"])

    asyncio.run(run())


def test_commands_run_over_ssh(tmp_path: Path) -> None:
    """Start and stop run there; a failure tells the status and what was said; a hang is cut off."""
    with running_sshd(tmp_path) as server:

        def command(start: str, timeout_s: float = 20.0) -> SshCommand:
            return SshCommand(
                SshSpec(
                    kind="ssh",
                    hostname="127.0.0.1",
                    user=server.user,
                    ssh_port=server.port,
                    identity_file=str(server.identity_file),
                    ssh_config=str(server.client_config),
                    start=start,
                    stop=f"rm {tmp_path}/it-runs",
                    timeout_s=timeout_s,
                )
            )

        async def run() -> None:
            unit = command(f"touch {tmp_path}/it-runs; echo fine")
            await unit.start()
            assert (tmp_path / "it-runs").exists()
            await unit.stop()
            assert not (tmp_path / "it-runs").exists()
            with pytest.raises(ProvisionerFailed, match=r"ssh 127.0.0.1: status 3: no such model"):
                await command("echo 'no such model' >&2; exit 3").start()
            with pytest.raises(ProvisionerFailed, match=r"not done after 0.5 s"):
                await command("sleep 20", timeout_s=0.5).start()

        asyncio.run(run())


def webhook(url: str, session: aiohttp.ClientSession, timeout_s: float = 5.0) -> Webhook:
    """The client for a unit named s1."""
    headers: Any = {"authorization": "Bearer t"}
    spec = WebhookSpec(kind="webhook", url=url, headers=headers, timeout_s=timeout_s)
    unit = StandbyUnit(name="s1", engine_url="http://h:1", provisioner=spec)
    return Webhook(unit, spec, session)


def test_a_webhook_is_told_what_to_do() -> None:
    """It gets action and unit as JSON with the configured headers; only 2xx is a yes."""
    seen: list[tuple[bytes, dict[str, Any]]] = []
    answers = {"start": 202, "stop": 500}

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = msgspec.json.decode((await receive())["body"])
        seen.append((dict(scope["headers"])[b"authorization"], body))
        await reply(send, answers[body["action"]], b"quota used up")

    async def run() -> None:
        async with serving(service) as url, aiohttp.ClientSession() as session:
            unit = webhook(url, session)
            await unit.start()
            with pytest.raises(ProvisionerFailed, match=f"{url}: status 500: quota used up"):
                await unit.stop()

    asyncio.run(run())
    body = {"unit": "s1", "engine_url": "http://h:1"}
    assert seen == [(b"Bearer t", {"action": action, **body}) for action in ("start", "stop")]


def test_a_webhook_that_is_away_slow_or_elsewhere_fails() -> None:
    """A refused connection, no answer in time and a redirect are failures that say so."""

    async def service(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") == "/moved":
            await reply(send, 307, b"", [(b"location", b"/")])
        elif scope["type"] == "http":
            await anyio.sleep(3)

    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            async with serving(service) as url:
                with pytest.raises(ProvisionerFailed, match=r"no answer within 0.1 s"):
                    await webhook(url, session, timeout_s=0.1).start()
                with pytest.raises(ProvisionerFailed, match="status 307"):
                    await webhook(f"{url}/moved", session).start()
            with pytest.raises(ProvisionerFailed, match="onnect"):
                await webhook(url, session).start()

    asyncio.run(run())


def test_the_example_file_is_valid() -> None:
    """``config/standby_units.json`` shows all three kinds."""
    units = load_standby_units(PROJECT / "config/standby_units.json", [])
    assert [unit.provisioner.kind for unit in units] == ["process", "ssh", "webhook"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a b"}, "units.0.name"),
        ({"name": "été"}, "units.0.name"),
        ({"name": "u0"}, "units.0.name: 'u0' is a unit already"),
        ({"engine_url": "h:1"}, "units.0.engine_url"),
        ({"provisioner": {"kind": "docker"}}, "units.0.provisioner"),
        ({"provisioner": {"kind": "process", "commands": []}}, "provisioner.process.commands"),
        ({"provisioner": {"kind": "process", "commands": ["x", ""]}}, "commands.1"),
        ({"provisioner": {"kind": "ssh", "hostname": "-oX", "start": "a", "stop": "b"}}, "-oX"),
        ({"provisioner": {"kind": "webhook", "url": "ftp://h"}}, "ftp://h"),
        ({"provisioner": {"kind": "process", "commands": ["x"], "env": {"A=B": "1"}}}, "A=B"),
        ({"colour": "blue"}, "units.0.colour"),
    ],
)
def test_bad_files_are_refused_by_key_and_value(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Each message names the file and the key."""
    good: dict[str, Any] = {
        "name": "s1",
        "engine_url": "http://h:1",
        "provisioner": {"kind": "process", "commands": ["sleep 1"]},
    }
    path = tmp_path / "standby.json"
    path.write_bytes(msgspec.json.encode({"units": [good | change]}))
    with pytest.raises(ConfigError) as error:
        load_standby_units(path, ["u0"])
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_two_units_of_one_name_are_refused(tmp_path: Path) -> None:
    """They could not be told apart."""
    one = {
        "name": "s1",
        "engine_url": "http://h:1",
        "provisioner": {"kind": "process", "commands": ["sleep 1"]},
    }
    path = tmp_path / "standby.json"
    path.write_bytes(msgspec.json.encode({"units": [one, one | {"engine_url": "http://h:2"}]}))
    with pytest.raises(ConfigError, match="two units have the name 's1'"):
        load_standby_units(path, [])
