"""Local fleets and deployment: the README's first commands."""

from __future__ import annotations

import json

import pytest

from tests.as_typed.claims import types
from tests.as_typed.shell import Shell

GATEWAY = "http://127.0.0.1:8200"


@pytest.mark.slow
@types(
    "bash exp/setup.sh",
    "bash astrolabe/exp/setup.sh",
    "bash exp/setup.sh --status",
    "bash exp/setup.sh --stop",
    "bash exp/setup.sh --install-only --extras exp,analysis",
)
def test_the_first_command(shell: Shell) -> None:
    """A fleet of four units starts, answers 40 prompts, is shown healthy, and is stopped."""
    started = shell.type("bash exp/setup.sh").out
    rows = [line for line in started.splitlines() if " unit-" in line and "/" in line]
    assert len(rows) >= 40
    assert "All is healthy." in started
    decisions = json.loads(shell.get(f"{GATEWAY}/admin/decisions?limit=1000"))
    assert len(decisions) >= 40
    again = shell.type("bash astrolabe/exp/setup.sh", above=True).out
    assert "already running" in again
    assert shell.type("bash exp/setup.sh --install-only --extras exp,analysis").out == ""
    assert {one["status"] for one in decisions} == {200}
    assert shell.type("bash exp/setup.sh --status").out.count(" healthy ") == 9
    assert shell.type("bash exp/setup.sh --stop").out.count("stopped  ") == 9
    assert not shell.answers(f"{GATEWAY}/health")
