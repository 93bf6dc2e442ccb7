"""Fixtures of every test."""

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes, or takes to draw, says something of the machine, not of the code: a
# first call compiles, and a slow machine takes ten times as long. What never ends, pytest ends.
settings.register_profile("astrolabe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("astrolabe")


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore interrupts, which processes that tests
    start and interrupt would inherit. And the threads of tiny models only wait for one another,
    for ever so long where other processes have the cores."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"
