"""A terminal: commands are typed in it, and it remembers which."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tests.as_typed.network import Network

_ASK = """
import sys, urllib.error, urllib.request
url, body = sys.argv[1:]
request = urllib.request.Request(url, body.encode() or None, {"content-type": "application/json"})
try:
    with urllib.request.urlopen(request, timeout=240) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:
    sys.exit(f"HTTP {error.code}: {error.read().decode()}")
except OSError as error:
    sys.exit(str(error))
"""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command came to."""

    status: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that it printed."""
        return self.out + self.err


@dataclass(slots=True)
class Shell:
    """``bash`` in the checkout, whose ``.venv`` is active. One test has one."""

    checkout: Path
    network: Network
    home: Path
    typed: list[str] = field(default_factory=list)
    _started: list[subprocess.Popen[str]] = field(default_factory=list)

    def type(
        self,
        command: str,
        *,
        status: int = 0,
        within_s: float = 800.0,
        env: Mapping[str, str] | None = None,
        above: bool = False,
    ) -> Ended:
        """Type a command and wait for its end, which must be ``status``.

        ``env`` has sizes for which there is no time otherwise. ``above``: in the folder above the
        checkout, where some of the sources' commands are meant to be typed.
        """
        self.typed.append(command)
        return self.run(command, status=status, within_s=within_s, env=env, above=above)

    def type_instead(self, command: str, instead: str, *, because: str, **options: Any) -> Ended:
        """For a command that cannot run here: type the part of it that can."""
        assert because, "every command that is not typed as it is written has its reason"
        self.typed.append(command)
        return self.run(instead, **options)

    def run(
        self,
        command: str,
        *,
        status: int = 0,
        within_s: float = 800.0,
        env: Mapping[str, str] | None = None,
        above: bool = False,
    ) -> Ended:
        """Run something that no document has people type."""
        with self._popen(command, env, above, subprocess.PIPE) as process:
            try:
                out, err = process.communicate(timeout=within_s)
            except subprocess.TimeoutExpired:
                _end(process)
                raise
        ended = Ended(process.returncode, out, err)
        assert ended.status == status, f"{command}\nended with {ended.status}:\n{ended.said}"
        return ended

    def run_to_file(self, command: str, log: Path, *, within_s: float = 800.0) -> None:
        """As ``run``, for a command that leaves servers behind, which would keep a pipe open: they
        are ended with it. What it printed is in ``log``."""
        with log.open("w") as file:
            process = self._popen(command, None, False, file)
        try:
            status = process.wait(within_s)
        finally:
            _end(process)
        assert status == 0, f"{command}\nended with {status}:\n{log.read_text()}"

    def start(
        self, command: str, *, ready: str, within_s: float = 400.0, written: str | None = None
    ) -> subprocess.Popen[str]:
        """Start a server, typed as it is written (``written`` where that has placeholders), and
        wait until ``ready`` answers. It is stopped at the end of the test, or by ``stop``."""
        self.typed.append(written or command)
        process = self._popen(command, None, False, None)
        self._started.append(process)
        give_up_s = time.monotonic() + within_s
        while not self.answers(ready):
            assert process.poll() is None, f"{command}\nended with {process.returncode}"
            assert time.monotonic() < give_up_s, f"{ready} does not answer after {within_s:.0f} s"
            time.sleep(0.2)
        return process

    def stop(self, process: subprocess.Popen[str]) -> None:
        """End what ``start`` has started."""
        self._started.remove(process)
        _end(process)

    def answers(self, url: str) -> bool:
        """Whether GET is answered with 200."""
        return self._ask(url, "").returncode == 0

    def get(self, url: str) -> str:
        """What GET answers; another status than 200 fails the test."""
        answer = self._ask(url, "")
        assert answer.returncode == 0, f"{url}: {answer.stderr}"
        return answer.stdout

    def post(self, url: str, body: object) -> Any:
        """What POST answers, as JSON."""
        answer = self._ask(url, json.dumps(body))
        assert answer.returncode == 0, f"{url}: {answer.stderr}"
        return json.loads(answer.stdout)

    def check_typed(self, claimed: Sequence[str]) -> None:
        """Fail if a command that the test claims to type was not typed."""
        left_out = [command for command in claimed if command not in self.typed]
        assert not left_out, f"claimed but not typed: {left_out}"

    def close(self) -> None:
        """Stop what was started, servers that stay behind fleets included."""
        for process in reversed(self._started):
            _end(process)
        if (self.checkout / ".astrolabe/fleet").exists():
            self.run("bash exp/setup.sh --stop")

    def _ask(self, url: str, body: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", "-c", _ASK, url, body]
        return subprocess.run(
            self.network.enter(command, "/"),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def _popen(
        self, command: str, env: Mapping[str, str] | None, above: bool, pipe: int | IO[str] | None
    ) -> subprocess.Popen[str]:
        folder = str(self.checkout.parent if above else self.checkout)
        return subprocess.Popen(
            self.network.enter(["bash", "-c", command], folder),
            cwd=folder,
            env={**self._environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,
        )

    def _environment(self) -> dict[str, str]:
        """As a new user has it, ``.venv`` activated: none of this project's settings."""
        ours = ("ASTROLABE_", "VLLM_", "PYTHON")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        path = f"{self.checkout / '.venv/bin'}:{os.environ['PATH']}"
        return {**kept, "PATH": path, "HOME": str(self.home), "PYTHONUNBUFFERED": "1"}


def _end(process: subprocess.Popen[str]) -> None:
    """End a command and what it has started, politely first."""
    for kind, wait_s in ((signal.SIGINT, 10.0), (signal.SIGKILL, 10.0)):
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, kind)
            process.wait(wait_s)
            return
