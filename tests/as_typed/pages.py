"""Runs a page of instructions: its ``bash`` blocks as they stand, in their order, in one shell."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from tests.as_typed.markdown import Block, blocks_of
from tests.as_typed.shell import Shell

_MARK = "=== end of block"


@dataclass(frozen=True, slots=True)
class Step:
    """A block that was run, what it printed, and what the page says that it prints."""

    command: str
    printed: str
    shown: tuple[Block, ...]


def run_page(page: Path, shell: Shell) -> list[Step]:
    """Run all of it; fails at the first command that fails, and names the block."""
    blocks = blocks_of(page)
    script = "".join(
        f"{block.text}\nprintf '\\n{_MARK} {index}\\n'\n"
        for index, block in enumerate(blocks)
        if block.language == "bash"
    )
    log = shell.home / "page.log"
    (shell.home / "page.sh").write_text(f"exec 2>&1\nset -eu\n{script}")
    shell.run_to_file(f"bash {shell.home / 'page.sh'}", log)
    printed = iter(re.split(rf"^{_MARK} \d+\n", log.read_text(), flags=re.M))
    steps: list[Step] = []
    for block in blocks:
        if block.language == "bash":
            steps.append(Step(block.text, next(printed), ()))
        elif steps:
            last = steps[-1]
            steps[-1] = Step(last.command, last.printed, (*last.shown, block))
    return steps


def missing_lines(step: Step) -> list[str]:
    """Lines of ``text`` blocks below a command that it did not print, in this order.

    ``...`` stands for anything, a number with a decimal point for any number, and any space for any
    other; all else is compared as it is.
    """
    rest = " ".join(step.printed.split())
    missing = []
    for block in step.shown:
        for line in block.text.splitlines() if block.language == "text" else ():
            found = re.search(_pattern(line), rest)
            if found is None:
                missing.append(line)
            else:
                rest = rest[found.end() :]
    return missing


def differing_shapes(step: Step) -> list[str]:
    """``json`` blocks below a command whose keys, and lengths of lists, are not those that it
    printed: both shapes."""
    shown = [shape_of(json.loads(one.text)) for one in step.shown if one.language == "json"]
    printed = shape_of(json.loads(step.printed)) if shown else ""
    return [f"{one}\n{printed}" for one in shown if one != printed]


def shape_of(value: object) -> object:
    """JSON without its values."""
    if isinstance(value, dict):
        return {key: shape_of(one) for key, one in value.items()}
    return [shape_of(one) for one in value] if isinstance(value, list) else None


def _pattern(line: str) -> str:
    parts = re.split(r"(\.\.\.|\d+\.\d+|\s+)", line.strip())
    return "".join(_part(part) for part in parts)


def _part(part: str) -> str:
    if part == "...":
        return ".*?"
    if re.fullmatch(r"\d+\.\d+", part):
        return r"\d+(\.\d+)?(e[+-]?\d+)?"
    return r"\s+" if part.isspace() else re.escape(part)
