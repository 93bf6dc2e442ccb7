"""Where runs are executed: processes of this machine, or the nodes of a Ray cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from exp.study.case import Case
from exp.study.code_version import PROJECT
from exp.study.errors import CaseError, PlanError
from exp.study.execution import Backend, Execution, execute, where

NOT_SENT = [".git", ".venv*", ".astrolabe", "results", "docs", "tests", "**/__pycache__"]
"""Folders that Ray's nodes need not have."""
GRACE_S = 20.0
"""For a run that is ended to stop what it has started."""
REACH_TIMEOUT_S = 10.0
"""Of a Ray cluster."""


class Executor(Protocol):
    """Executes runs beside one another."""

    @property
    def num_slots(self) -> int:
        """How many at a time."""

    def submit(self, case: Case) -> Future[Execution]:
        """Begin; what ``execute`` raises is the future's error."""

    def close(self) -> None:
        """End at once; runs that are under way are lost."""


class LocalExecutor:
    """Processes of this machine."""

    def __init__(self, backend: Backend, num_processes: int) -> None:
        self.num_slots = num_processes
        self._backend = backend
        self._pool = ProcessPoolExecutor(
            num_processes,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(backend.name != "twin",),
        )

    def submit(self, case: Case) -> Future[Execution]:
        """See ``Executor``."""
        return self._pool.submit(execute, case, self._backend)

    def close(self) -> None:
        """See ``Executor``."""
        workers = self._workers()
        self._pool.shutdown(wait=False, cancel_futures=True)
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.join(GRACE_S)
            worker.kill()

    @property
    def worker_pids(self) -> list[int]:
        """Of those that have been started."""
        return [worker.pid for worker in self._workers() if worker.pid is not None]

    def _workers(self) -> list[BaseProcess]:
        """The pool itself would wait for what they do."""
        return list((self._pool._processes or {}).values())


def _begin_worker(starts_fleets: bool) -> None:
    """What a run has started, such as a fleet, is to end with it, however the study ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the study's, which ends its workers
    if starts_fleets:
        signal.signal(signal.SIGTERM, _unwind)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_outlive, args=(parent.sentinel,), daemon=True).start()


def _unwind(signum: int, frame: object) -> None:
    sys.exit(128 + signum)


def _outlive(parent: int) -> None:
    """A worker whose study was killed would run on for ever."""
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def _check_reachable(address: str) -> None:
    """Ray itself would try for minutes."""
    host, colon, port = address.rpartition("/")[2].rpartition(":")
    if not colon:
        return
    try:
        socket.create_connection((host, int(port)), REACH_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise PlanError(f"--ray {address}: {error}") from None


class RayExecutor:
    """A Ray cluster's cores, one for each run. Its nodes need this project's dependencies; the code
    itself is sent."""

    def __init__(self, backend: Backend, address: str, num_processes: int | None) -> None:
        """``address`` as ``ray.init`` takes it, or ``local`` for a Ray of one's own.

        Raises:
            PlanError: Ray is not installed, or nobody answers at the address.
        """
        try:
            import ray
        except ImportError:
            raise PlanError("--ray needs the extra 'ray': pip install '.[ray]'") from None
        _check_reachable(address)
        self._ray: Any = ray
        self._backend = backend
        is_local = address == "local"
        environment: dict[str, Any] = {"working_dir": str(PROJECT), "excludes": NOT_SENT}
        if is_local:
            environment = {"env_vars": {"PYTHONPATH": str(PROJECT)}}
        try:
            ray.init(
                address=address,
                num_cpus=num_processes if is_local else None,
                include_dashboard=False if is_local else None,
                runtime_env=environment,
                log_to_driver=False,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise PlanError(f"--ray {address}: {error}") from None
        self.num_slots = num_processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
        # A node that dies takes its run with it: that one is begun again elsewhere.
        self._execute = ray.remote(num_cpus=1, max_retries=2, retry_exceptions=False)(execute)

    def submit(self, case: Case) -> Future[Execution]:
        """See ``Executor``."""
        future: Future[Execution] = Future()

        def hand_over(done: Future[Execution]) -> None:
            try:
                future.set_result(done.result())
            except CaseError as error:  # Ray's own kind of it, which tells the traceback, too
                future.set_exception(CaseError(str(getattr(error, "cause", error))))
            except self._ray.exceptions.RayError as error:
                future.set_exception(CaseError(f"{where(case)}: lost by Ray: {error}"))

        self._execute.remote(case, self._backend).future().add_done_callback(hand_over)
        return future

    def close(self) -> None:
        """See ``Executor``."""
        self._ray.shutdown()
