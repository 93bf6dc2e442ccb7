"""Starts the workers, and starts again those that die."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
from prometheus_client import CollectorRegistry, Counter, Gauge

from global_scheduler.generations import Generations
from global_scheduler.metrics import GatewayMetrics
from global_scheduler.serving import SHUTDOWN_GRACE_S, TICKET_SOCKET
from global_scheduler.workers.messages import Configured
from global_scheduler.workers.office import Desk

logger = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Before a worker is started again; doubled for one that dies young."""
GROWN_UP_S = 10.0


class Workers:
    """The workers of one gateway, on one listening socket."""

    def __init__(self, number: int, listener: socket.socket, folder: Path, log_level: str) -> None:
        """``folder`` is where the scheduler listens; only its owner may look into it."""
        self._number = number
        self._listener = listener
        self._folder = folder
        self._log_level = log_level

    @asynccontextmanager
    async def running(
        self, generations: Generations, metrics: GatewayMetrics, hello: Configured
    ) -> AsyncIterator[None]:
        """Workers serve while the block runs; then they finish what they have."""
        counts = _WorkerMetrics(metrics.registry)
        refused = partial(metrics.request_ended, "none")

        def channel() -> asyncio.Protocol:
            return Desk(generations, refused, hello).channel

        server = await asyncio.get_running_loop().create_unix_server(
            channel, str(self._folder / TICKET_SOCKET)
        )
        async with server, anyio.create_task_group() as tasks:
            for _ in range(self._number):
                tasks.start_soon(self._keep, counts)
            yield
            self._listener.close()
            tasks.cancel_scope.cancel()

    async def _keep(self, counts: _WorkerMetrics) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            started_s = time.monotonic()
            process = await self._start()
            try:
                with counts.running.track_inprogress():
                    code = await process.wait()
            finally:
                await _stop(process)
            is_young = time.monotonic() - started_s < GROWN_UP_S
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if is_young else FIRST_PAUSE_S
            logger.error(
                "worker %d ended with %d, another one follows in %g s", process.pid, code, pause_s
            )
            counts.deaths.inc()
            await anyio.sleep(pause_s)

    async def _start(self) -> asyncio.subprocess.Process:
        listen_fd = self._listener.fileno()
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "global_scheduler.workers.worker"),
            *("--folder", str(self._folder), "--listen-fd", str(listen_fd)),
            *("--log-level", self._log_level),
            pass_fds=[listen_fd],
            start_new_session=True,  # a terminal's Ctrl-C is for the scheduler, which stops them
        )


class _WorkerMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.running = Gauge("astrolabe_workers", "Workers that run.", registry=registry)
        self.deaths = Counter(
            "astrolabe_worker_deaths", "Workers that have ended by themselves.", registry=registry
        )


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let it finish what it has; not for ever."""
    if process.returncode is not None:
        return
    process.terminate()
    with anyio.CancelScope(shield=True):
        with anyio.move_on_after(SHUTDOWN_GRACE_S + 1):
            await process.wait()
            return
        process.kill()
        await process.wait()
