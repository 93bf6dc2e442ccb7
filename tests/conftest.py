"""Fixtures of every test."""

import signal

import pytest


def pytest_configure() -> None:
    """A shell has what it starts in the background ignore interrupts, which processes that tests
    start and interrupt would inherit."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio."""
    return "asyncio"
