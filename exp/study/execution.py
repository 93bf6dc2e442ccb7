"""One run, in a process that may be anywhere: what executors call."""

from __future__ import annotations

import importlib
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Literal

import pyarrow as pa

from exp.study.case import Case
from exp.study.cpu import CpuWatch
from exp.study.errors import CaseError
from exp.study.records import RequestRecord
from exp.study.tables import to_table

BackendName = Literal["twin", "emulated", "cluster"]
MODULES: dict[BackendName, str] = {
    "twin": "exp.twin.run",
    "emulated": "exp.study.backends.emulated",
    "cluster": "exp.study.backends.cluster",
}
"""Where each ``run_case`` is; imported only by the process that runs it."""
AGAIN_S = 20.0
"""How much later a run is told once more to end: what it has started takes time to stop."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Where runs take place."""

    name: BackendName
    gateway_url: str | None = None
    """Of ``cluster``."""
    case_timeout_s: float = 3_600.0
    """A run that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class Execution:
    """A run that has ended."""

    table: pa.Table
    """A row a request, as ``tables.SCHEMA``."""
    wall_s: float
    measured: dict[str, float] = field(default_factory=dict)
    """Figures that the rows do not tell."""


def execute(case: Case, backend: Backend) -> Execution:
    """Run a case to its end. To be called in a process's main thread.

    Raises:
        CaseError: it failed or took too long; the message names the case and the reason.
    """
    started_s = time.perf_counter()
    try:
        with _deadline(backend.case_timeout_s), CpuWatch() as watch:
            records = _run_case(backend)(case)
        table = to_table(records)
    except (Exception, _Late) as error:  # one run's failure must not end the others
        raise CaseError(f"{where(case)}: {_reason(error)}") from error
    return Execution(table, time.perf_counter() - started_s, watch.cores_used())


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, _Late) else f"{type(error).__name__}: {error}"


def where(case: Case) -> str:
    """Names a case to people."""
    return f"{case.scenario}, {case.system}, {case.rate_per_s:g}/s, seed {case.seed}"


def _run_case(backend: Backend) -> Callable[[Case], list[RequestRecord]]:
    run_case = importlib.import_module(MODULES[backend.name]).run_case
    if backend.name != "cluster":
        return run_case  # type: ignore[no-any-return]
    return lambda case: run_case(case, backend.gateway_url)


class _Late(SystemExit):
    """A run is ended. Event loops let nothing less through from whatever task it hits."""


@contextmanager
def _deadline(timeout_s: float) -> Iterator[None]:
    """Ends the block with ``_Late``."""

    def expire(signum: int, frame: FrameType | None) -> None:
        raise _Late(f"took longer than {timeout_s:g} s")

    before = signal.signal(signal.SIGALRM, expire)
    # Again and again: where it hits a destructor or a weak reference's callback, Python drops it.
    signal.setitimer(signal.ITIMER_REAL, timeout_s, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
