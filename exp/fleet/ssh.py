"""Running shell commands on another host with the system's ``ssh``, without questions asked."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from exp.fleet.errors import HostError
from wire.host_config import CONNECT_TIMEOUT_S, SshTarget

UNDO_TIMEOUT_S = 60.0
"""How long a held command may take to undo its work after it was let go."""
CANCELLED = "cancelled"
CONNECTION_FAILED = 255
"""ssh's own exit status, whatever the command's would have been."""

REASONS = {
    "Permission denied": "it refused our key (does `ssh {host}` work without a password?)",
    "Host key verification failed": "its host key is not the known one (run `ssh {host}` once)",
    "Connection refused": "it refused the connection (does sshd listen on that port?)",
    "timed out": f"it did not answer within {CONNECT_TIMEOUT_S} s",
    "Could not resolve hostname": "its name is unknown here",
    "No route to host": "there is no route to it",
}


@dataclass(frozen=True, slots=True)
class Host:
    """One host, as ssh reaches it."""

    hostname: str
    target: SshTarget
    ssh_config: Path | None = None

    def argv(self, script: str) -> list[str]:
        """The ssh command line that runs a POSIX shell script there."""
        return self.target.argv(self.hostname, script, self.ssh_config)

    def run(
        self,
        script: str,
        cancelled: threading.Event,
        timeout_s: float,
        stdin: bytes = b"",
        is_held: bool = False,
    ) -> str:
        """What the script writes to stdout.

        A held script (``is_held``) has its stdin kept open until it ends; when ``cancelled`` is set
        it is closed, and the script has time to undo what it did.

        Raises:
            HostError: no connection, a failing script, too late, or cancelled.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
            process = self._start(script, stdin, is_held, out, errors)
            was_let_go = self._wait(process, cancelled, time.monotonic() + timeout_s)
            if was_let_go:
                why = CANCELLED if cancelled.is_set() else f"not done after {timeout_s:.0f} s"
                raise HostError(self.hostname, why)
            if process.returncode != 0:
                raise HostError(self.hostname, self._reason(process.returncode, _read(errors)))
            return _read(out)

    def _start(
        self, script: str, stdin: bytes, is_held: bool, out: IO[bytes], errors: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as source:
            source.write(b"" if is_held else stdin)  # what is held may be secret: no file for it
            source.seek(0)
            try:
                process = subprocess.Popen(
                    self.argv(script),
                    stdin=subprocess.PIPE if is_held else source,
                    stdout=out,
                    stderr=errors,
                    # Ctrl-C must not break connections that are needed to undo things.
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise HostError(self.hostname, "the program ssh is not installed here") from error
        if process.stdin:
            with contextlib.suppress(BrokenPipeError):  # ssh has ended; its status tells why
                process.stdin.write(stdin)
                process.stdin.flush()
        return process

    def _wait(
        self, process: subprocess.Popen[bytes], cancelled: threading.Event, deadline: float
    ) -> bool:
        """Wait for the end; returns whether it had to be let go."""
        while process.poll() is None:
            if cancelled.is_set() or time.monotonic() > deadline:
                _let_go(process)
                return True
            time.sleep(0.05)
        _close_stdin(process)
        return False

    def _reason(self, status: int, errors: str) -> str:
        lines = [line for line in errors.splitlines() if line.strip()]
        if status == CONNECTION_FAILED:
            for sign, reason in REASONS.items():
                if sign in errors:
                    return reason.format(host=self.hostname)
            return lines[-1] if lines else "ssh failed without saying why"
        return "\n    ".join(lines[-20:]) or f"the command ended with status {status}"


def _let_go(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        _close_stdin(process)
        try:
            process.wait(UNDO_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    else:
        process.kill()
    process.wait()


def _close_stdin(process: subprocess.Popen[bytes]) -> None:
    if process.stdin:
        with contextlib.suppress(BrokenPipeError):  # the other end was closed first
            process.stdin.close()


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")
