"""Where examples come from: ShareGPT, rows of JSONL or of a hub's data set, the gateway's log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from datasets import load_dataset

from length_estimation import sharegpt
from length_estimation.conversations import (
    ASSISTANT,
    SYSTEM,
    USER,
    Conversation,
    Message,
    SourceError,
    shown,
)
from length_estimation.examples import Example
from length_estimation.hub import check_hub

logger = logging.getLogger(__name__)

ROLES = {"developer": SYSTEM}
WEB_PAGE = (
    ": this is a web page about a file; on Hugging Face's hub the file itself lies under "
    "/resolve/main/ instead of /blob/main/"
)
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]


class _Part(msgspec.Struct):
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _Row(msgspec.Struct):
    prompt: str | None = None
    messages: list[_Message] | None = None
    response: str | None = None
    num_output_tokens: Count | None = None
    model: str | None = None
    max_tokens: Count | None = None
    conversation: str | int | None = None


class _LogLine(msgspec.Struct, kw_only=True):
    text: str
    context: str
    num_prompt_tokens: Count
    earlier_answer_characters: list[int]
    max_tokens: Count | None
    model: str
    num_output_tokens: Count
    conversation: str


def read_rows(file: Path) -> Iterator[Conversation]:
    """Conversations of a JSONL file, a line each: see ``conversation_of_row``.

    Raises:
        SourceError: a line cannot be used; names file, line, key and value.
    """
    for where, row in _json_lines(file):
        yield conversation_of_row(row, where)


def read_hub(name: str) -> Iterator[Conversation]:
    """Conversations of a hub's data set (its split ``train``), or of a folder with one.

    Rows are as in JSONL: see ``conversation_of_row``.

    Raises:
        SourceError: there is no such data set, or a row cannot be used.
        HubError: no hub is reached, or it has no such data set.
    """
    if not Path(name).is_dir():
        check_hub("dataset", name)
    try:
        rows = load_dataset(name, split="train", streaming=True)
    except (OSError, ValueError) as error:
        raise SourceError(f"no data set {name!r} can be loaded: {error}") from error
    for index, row in enumerate(rows):
        yield conversation_of_row(row, f"{name}, row {index}")


def conversation_of_row(row: Any, where: str) -> Conversation:
    """``{prompt | messages, response | num_output_tokens, model?, max_tokens?, conversation?}``.

    ``messages`` are OpenAI's; where they hold the answers themselves, nothing else need tell them.
    Rows that name no ``conversation`` are each their own. Rows with ``conversations`` are
    ShareGPT's, ``{conversations: [{from, value}], id?}``.

    Raises:
        SourceError: names ``where``, the key and its value.
    """
    if isinstance(row, dict) and row.get("conversations") is not None:
        return sharegpt.conversation_of(row, where, default_name=where)
    parsed = _convert(row, _Row, where)
    if (parsed.prompt is None) == (parsed.messages is None):
        raise SourceError(
            f"{where}: needs one of prompt, messages and conversations (got {shown(row)})"
        )
    if parsed.messages is None:
        messages = [Message(USER, parsed.prompt or "")]
    else:
        messages = [Message(ROLES.get(one.role, one.role), _text(one)) for one in parsed.messages]
    _add_answer(messages, parsed, where)
    name = where if parsed.conversation is None else str(parsed.conversation)
    return Conversation(name, messages, parsed.model, parsed.max_tokens)


def read_request_log(files: list[Path]) -> Iterator[Example]:
    """Examples from the gateway's request log (``--request-log``), oldest file first.

    Lines that a full disk or a crash has cut are left out, with a warning.

    Raises:
        SourceError: a line cannot be used; names file, line, key and value.
    """
    for file in files:
        for where, row in _json_lines(file, may_be_cut=True):
            line = _convert(row, _LogLine, where)
            turn = len(line.earlier_answer_characters)
            yield Example(turn=turn, **msgspec.structs.asdict(line))


def request_log_files(path: Path) -> list[Path]:
    """The log and what was rotated away (``PATH.1`` and so on), oldest first.

    Raises:
        SourceError: there is none.
    """
    rotated = [file for file in path.parent.glob(f"{path.name}.*") if file.suffix[1:].isdigit()]
    files = sorted(rotated, key=lambda file: -int(file.suffix[1:]))
    files += [path] if path.is_file() else []
    if not files:
        raise SourceError(f"no request log at {path}")
    return files


def _json_lines(file: Path, *, may_be_cut: bool = False) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{file}, line {number}"
            if not line.strip():
                continue
            try:
                yield where, msgspec.json.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                if may_be_cut:
                    logger.warning("%s is left out, as it is not JSON: %s", where, error)
                    continue
                text = line.decode(errors="replace").strip()
                hint = WEB_PAGE if text.startswith("<") else ""
                raise SourceError(
                    f"{where} is not JSON: {error} (got {shown(text)}){hint}"
                ) from error


def _convert(row: Any, kind: type, where: str) -> Any:
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        words, _, path = str(error).partition(" - at `$")
        key = path.strip(".`")
        value = row.get(key.partition(".")[0].partition("[")[0]) if isinstance(row, dict) else row
        raise SourceError(f"{where}: {key or 'line'}: {words} (got {shown(value)})") from error


def _add_answer(messages: list[Message], row: _Row, where: str) -> None:
    """Complete the messages by what stands beside them."""
    if messages and messages[-1].role == ASSISTANT:
        if row.response is not None:
            raise SourceError(f"{where}: response: messages end with an answer already")
        messages[-1] = messages[-1]._replace(num_tokens=row.num_output_tokens)
    elif row.response is not None or row.num_output_tokens is not None:
        messages.append(Message(ASSISTANT, row.response or "", row.num_output_tokens))
    elif all(message.role != ASSISTANT for message in messages):
        raise SourceError(f"{where}: needs response or num_output_tokens (got neither)")


def _text(message: _Message) -> str:
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    return "\n".join([part.text for part in message.content if part.text])
