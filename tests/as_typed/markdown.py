"""What a page of documentation has its readers type, and what it shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.M | re.S
)
_SPAN = re.compile(r"`([^`]+)`")
_PROGRAMS = ("bash ", "python ", ".venv/bin/", ".venv-vllm/bin/", "pip ", "curl ", "vllm ")
"""What a span of code begins with that is a command. Options alone are none."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, such as ``bash`` or ``json``, and its text."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks, in their order."""
    return [Block(found["language"], found["text"]) for found in _FENCE.finditer(page.read_text())]


def commands_of(page: Path) -> list[str]:
    """Each command once, in the order of its first appearance: the lines of ``bash`` blocks, and
    spans of code in the text and in tables that begin with a program."""
    found = [line for block in blocks_of(page) for line in _lines(block)]
    for span in _SPAN.findall(_FENCE.sub("", page.read_text())):
        command = " ".join(span.split())
        if command.startswith(_PROGRAMS):
            found.append(command)
    return list(dict.fromkeys(found))


def _lines(block: Block) -> list[str]:
    """The commands of a block, continued lines joined, comments at their ends left out."""
    if block.language != "bash":
        return []
    joined = block.text.replace("\\\n", " ")
    lines = [" ".join(re.sub(r"(^|\s)#.*", "", line).split()) for line in joined.splitlines()]
    return [line for line in lines if line]
