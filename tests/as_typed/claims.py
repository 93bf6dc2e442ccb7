"""Which test types which command: exactly one for each."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from tests.as_typed.checkout import PROJECT

Test = TypeVar("Test", bound=Callable[..., None])

TYPED: dict[str, list[str]] = {}
"""The tests of this folder that type a command, by the command."""


def types(*commands: str) -> Callable[[Test], Test]:
    """Say which commands a test types. It fails if it leaves one out: see ``Shell.check_typed``."""

    def decorate(test: Test) -> Test:
        _claim(test, commands)
        test.commands = commands  # type: ignore[attr-defined]
        return test

    return decorate


def types_each(*groups: tuple[str, ...]) -> Callable[[Test], Test]:
    """The same for a test that is run once for each group: it gets it as ``commands``."""

    def decorate(test: Test) -> Test:
        for commands in groups:
            _claim(test, commands)
        names = [commands[0].split(" --")[0].split("/")[-1] for commands in groups]
        decorated: Test = pytest.mark.parametrize("commands", groups, ids=names)(test)
        return decorated

    return decorate


def commands_claimed_by(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Those that the running test was given by ``types`` or ``types_each``."""
    found: tuple[str, ...] = getattr(request.function, "commands", ())
    if hasattr(request.node, "callspec"):
        found = request.node.callspec.params.get("commands", found)
    return found


def _claim(test: Callable[..., None], commands: Sequence[str]) -> None:
    for command in commands:
        TYPED.setdefault(command, []).append(f"{test.__module__}.{test.__name__}")


def is_a_test(node_id: str) -> bool:
    """Whether ``tests/folder/test_file.py::test_name`` is there."""
    path, _, name = node_id.partition("::")
    if not name or not (PROJECT / path).is_file():
        return False
    defined = ast.parse((PROJECT / path).read_text()).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(one, kinds) and one.name == name for one in defined)
