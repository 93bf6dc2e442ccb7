"""Nothing that the documents have people type is left without a check."""

from __future__ import annotations

import importlib
import pkgutil

from tests import as_typed
from tests.as_typed.checkout import PROJECT
from tests.as_typed.claims import TYPED, is_a_test
from tests.as_typed.elsewhere import ELSEWHERE
from tests.as_typed.markdown import commands_of
from tests.as_typed.sources import SOURCES

for _module in pkgutil.iter_modules(as_typed.__path__):
    if _module.name.startswith("test_"):
        importlib.import_module(f"{as_typed.__name__}.{_module.name}")

SCRIPTS = PROJECT / "exp/end_to_end_exp_scripts"


def documented() -> dict[str, str]:
    """Every command of the README and of the sources, with where it stands. The blocks of
    ``docs/howto/`` are all run, page by page: see ``test_howto``."""
    found = {command: "README.md" for command in commands_of(PROJECT / "README.md")}
    return found | {one.command: f"{one.document}, {one.section}" for one in SOURCES}


def test_every_command_has_one_check() -> None:
    """A command that is new in the README stands here with its name until somebody checks it."""
    unclaimed = {
        command: where
        for command, where in documented().items()
        if command not in TYPED and command not in ELSEWHERE
    }
    assert not unclaimed
    twice = {command: tests for command, tests in TYPED.items() if len(tests) > 1}
    twice |= {command: TYPED[command] for command in ELSEWHERE if command in TYPED}
    assert not twice


def test_every_check_is_of_a_command_that_is_there() -> None:
    """What the documents no longer say is no longer checked as if they did."""
    scripts = {f"bash {one.relative_to(PROJECT)}" for one in SCRIPTS.glob("*/*.sh")}
    known = documented().keys() | scripts
    assert not [command for command in (*TYPED, *ELSEWHERE) if command not in known]


def test_every_script_of_an_experiment_is_run() -> None:
    """The README's table names them by their paths below one folder."""
    names = {str(one.relative_to(SCRIPTS)) for one in SCRIPTS.glob("*/*.sh")}
    run = {command.split("end_to_end_exp_scripts/")[-1].split()[0] for command in TYPED}
    assert names <= run


def test_tests_elsewhere_are_there() -> None:
    """What is said to be tested elsewhere is."""
    assert not [one for one in ELSEWHERE.values() if not is_a_test(one.test)]
    assert all(one.because for one in ELSEWHERE.values())


def test_ci_runs_the_two_scripts() -> None:
    """``bash scripts/test`` is how this test was started there, and the linters follow."""
    commands = (PROJECT / ".ci/run").read_text().splitlines()
    assert {"bash scripts/test", "bash scripts/check"} <= set(commands)
