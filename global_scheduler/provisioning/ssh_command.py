"""Standby units that shell commands on another host start and stop."""

from __future__ import annotations

from pathlib import Path

import anyio

from global_scheduler.provisioning.base import ProvisionerFailed
from global_scheduler.provisioning.standby import SshSpec

REASON_LINES = 3
LONGEST_REASON = 500


class SshCommand:
    """Runs the unit's commands with the system's ``ssh``, which must not need a password."""

    def __init__(self, spec: SshSpec) -> None:
        self._spec = spec

    async def start(self) -> None:
        """Run the start command.

        Raises:
            ProvisionerFailed: no connection, a status other than 0, or too late.
        """
        await self._run(self._spec.start)

    async def stop(self) -> None:
        """Run the stop command; raises as ``start`` does."""
        await self._run(self._spec.stop)

    def try_failure(self) -> str | None:
        """Nothing is known of the other host's processes."""
        return None

    async def _run(self, script: str) -> None:
        spec = self._spec
        argv = spec.argv(spec.hostname, script, Path(spec.ssh_config) if spec.ssh_config else None)
        try:
            with anyio.fail_after(spec.timeout_s):
                # Leaving early ends ssh. Ctrl-C for the gateway must not break connections.
                ended = await anyio.run_process(argv, check=False, start_new_session=True)
        except TimeoutError as error:
            raise self._failure(f"not done after {spec.timeout_s:g} s") from error
        except OSError as error:
            raise self._failure(f"ssh cannot be run: {error.strerror}") from error
        if ended.returncode != 0:
            lines = (ended.stderr or ended.stdout).decode(errors="replace").splitlines()
            said = " | ".join(line.strip() for line in lines[-REASON_LINES:] if line.strip())
            raise self._failure(f"status {ended.returncode}: {said[:LONGEST_REASON]}")

    def _failure(self, reason: str) -> ProvisionerFailed:
        return ProvisionerFailed(f"ssh {self._spec.hostname}: {reason}")
