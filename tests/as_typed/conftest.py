"""The checkout that commands are typed in, and a terminal for each test."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.as_typed.checkout import compile_kernel, make_checkout
from tests.as_typed.claims import commands_claimed_by
from tests.as_typed.network import Network
from tests.as_typed.shell import Shell

HAS_PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Leave with the test whether it has passed, for its fixtures to know."""
    report = yield
    if report.when == "call":
        item.stash[HAS_PASSED] = report.passed
    return report


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests that leave it as good as new."""
    made = make_checkout(tmp_path_factory.mktemp("clone"))
    compile_kernel(made)
    return made


@pytest.fixture
def network() -> Iterator[Network]:
    """The test's own, or the machine's if nobody is on the documented ports."""
    made = Network()
    taken = made.port_in_use()
    if taken is not None:
        pytest.skip(
            f"something else listens on port {taken}, and this system has no network namespaces "
            "(unshare, nsenter) in which the documented ports are free"
        )
    yield made
    made.close()


@pytest.fixture
def shell(
    request: pytest.FixtureRequest, checkout: Path, network: Network, tmp_path: Path
) -> Iterator[Shell]:
    """A terminal in the checkout, with a network of its own."""
    yield from _terminal(request, Shell(checkout, network, tmp_path))


@pytest.fixture
def open_shell(request: pytest.FixtureRequest, checkout: Path, tmp_path: Path) -> Iterator[Shell]:
    """One that reaches what the machine reaches, for what has to be fetched."""
    yield from _terminal(request, Shell(checkout, Network(is_own=False), tmp_path))


def _terminal(request: pytest.FixtureRequest, made: Shell) -> Iterator[Shell]:
    """What was started in it is stopped, and what the test claims to type must have been typed."""
    try:
        yield made
    finally:
        made.close()
    if request.node.stash.get(HAS_PASSED, False):
        made.check_typed(commands_claimed_by(request))
