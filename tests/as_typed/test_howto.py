"""The pages of ``docs/howto/``: what they have people type works, and prints what they show."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from global_scheduler.decisions import CandidateView, Decision
from tests.as_typed.checkout import PROJECT, make_checkout
from tests.as_typed.claims import is_a_test
from tests.as_typed.network import Network
from tests.as_typed.pages import differing_shapes, missing_lines, run_page
from tests.as_typed.shell import Shell

PAGES = PROJECT / "docs/howto"
RUN_ELSEWHERE = {
    "deploy_on_hosts.md": (
        "tests/deploy/test_howto_page.py::test_the_page_deploys_uses_and_stops_a_fleet"
    ),
}
"""Pages that need more than a checkout, with the test that runs them."""
RUN_HERE = [one.name for one in sorted(PAGES.glob("*.md")) if one.name not in RUN_ELSEWHERE]


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_HERE)
def test_a_page_does_what_it_says(
    name: str, checkout: Path, network: Network, tmp_path: Path
) -> None:
    """All blocks run in their order, each prints what the page shows below it."""
    shell = Shell(make_checkout(tmp_path, checkout), network, tmp_path)
    try:
        steps = run_page(PAGES / name, shell)
    finally:
        shell.close()
    assert any(block.language in ("text", "json") for step in steps for block in step.shown)
    for step in steps:
        assert not missing_lines(step), f"{step.command}\nprinted\n{step.printed}"
        assert not differing_shapes(step)


def test_pages_that_need_hosts_have_a_test() -> None:
    """It is where it is said to be."""
    assert all(map(is_a_test, RUN_ELSEWHERE.values()))


def test_every_field_of_a_decision_is_explained() -> None:
    """The page has a row for each, and none for what is not there."""
    tables = (PAGES / "read_a_decision.md").read_text().split("And of each candidate:")
    kinds: tuple[type[msgspec.Struct], ...] = (Decision, CandidateView)
    for table, kind in zip(tables, kinds, strict=True):
        rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        explained = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
        assert explained == [field.name for field in msgspec.structs.fields(kind)]
