"""Which test types which command: exactly one for each."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TypeVar

from tests.as_typed.checkout import PROJECT

Test = TypeVar("Test", bound=Callable[..., None])

TYPED: dict[str, list[str]] = {}
"""The tests of this folder that type a command, by the command."""


def types(*commands: str) -> Callable[[Test], Test]:
    """Say which commands a test types. It fails if it leaves one out: see ``Shell.check_typed``."""

    def decorate(test: Test) -> Test:
        for command in commands:
            TYPED.setdefault(command, []).append(f"{test.__module__}.{test.__name__}")
        test.commands = commands  # type: ignore[attr-defined]
        return test

    return decorate


def commands_claimed_by(test: Callable[..., None]) -> tuple[str, ...]:
    """Those that ``types`` was given."""
    found: tuple[str, ...] = getattr(test, "commands", ())
    return found


def is_a_test(node_id: str) -> bool:
    """Whether ``tests/folder/test_file.py::test_name`` is there."""
    path, _, name = node_id.partition("::")
    if not name or not (PROJECT / path).is_file():
        return False
    defined = ast.parse((PROJECT / path).read_text()).body
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return any(isinstance(one, kinds) and one.name == name for one in defined)
