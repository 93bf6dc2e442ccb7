"""Writes what a model expects into a copy of a data set, for experiments that replay it.

Each row gains ``predicted_mean``, ``predicted_median`` (tokens), ``predicted_quantiles`` (from a
level such as ``"0.9"`` to tokens) and ``predicted_by``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from datasets import Dataset, DatasetDict
from tqdm import tqdm

from length_estimation.answer_tokens import load_tokenizer
from length_estimation.conversations import (
    ASSISTANT,
    Message,
    SourceError,
    examples_of,
    shown,
)
from length_estimation.data_sets import examples_of_rows, read_data_set
from length_estimation.evaluation import BATCH
from length_estimation.provenance import FILE_NAME as PROVENANCE_FILE
from length_estimation.served_model import ServedModel
from length_estimation.sources import conversation_of_row
from length_estimation.token_counter import TokenCounter
from length_estimation.whole_output import appearing_at_once
from wire.length import LengthEstimate, LengthQuestion

ROWS = ".jsonl"


def tag(model: ServedModel, data: Path, out: Path, *, tokenizer: str, replace: bool) -> None:
    """Tag a folder that ``length_estimation sample`` made, or a JSONL file.

    Rows of a file have ``prompt``, ``messages`` or ``conversations`` as for ``sample``, answered or
    not, or are lines of the gateway's request log. ``out`` appears when all is written.

    Args:
        tokenizer: counts the prompt's tokens where a row has no ``num_prompt_tokens``.
        replace: whether ``out`` may exist already.

    Raises:
        OSError: a file cannot be read or written, or ``out`` exists.
        DataError, SourceError: the data cannot be used.
        TokenizerError: the tokenizer cannot be used.
        InferenceFailed: the model failed.
    """
    if out.resolve() == data.resolve():
        raise FileExistsError(f"{out} is the data itself: predictions go into a copy")
    with appearing_at_once(out, replace=replace) as new:
        if data.suffix == ROWS:
            _tag_file(model, data, new, QuestionReader(tokenizer))
        else:
            _tag_folder(model, data, new)


def tags(estimate: LengthEstimate) -> dict[str, Any]:
    """What a row gains."""
    return {
        "predicted_mean": estimate.mean_tokens,
        "predicted_median": estimate.quantiles["0.5"],
        "predicted_quantiles": estimate.quantiles,
        "predicted_by": estimate.source,
    }


class QuestionReader:
    """Reads the question out of a row of a JSONL file."""

    def __init__(self, tokenizer: str) -> None:
        self._tokenizer = tokenizer
        self._counter: TokenCounter | None = None

    def question(self, row: Any, where: str) -> LengthQuestion:
        """What an estimator gets to see: of a conversation, its last question.

        Raises:
            SourceError: names ``where`` and what is wrong.
            TokenizerError: the tokenizer cannot be used.
        """
        if not isinstance(row, dict):
            raise SourceError(f"{where} is not an object (got {shown(row)})")
        if "text" in row and not {"prompt", "messages"} & row.keys():
            # A line of the request log, or an exported example.
            _converted(row, _Counted, where)
            asked: LengthQuestion = _converted(row, LengthQuestion, where)
            return asked
        if self._counter is None:
            self._counter = TokenCounter(load_tokenizer(self._tokenizer))
        conversation = conversation_of_row(_answered(row), where)
        if conversation.messages and conversation.messages[-1].role != ASSISTANT:
            conversation.messages.append(Message(ASSISTANT, "", 1))
        examples = list(examples_of(conversation, self._counter, model=""))
        if not examples:
            raise SourceError(f"{where}: no message of a user to answer (got {shown(row)})")
        question = examples[-1].question()
        if row.get("num_prompt_tokens") is not None:
            question.num_prompt_tokens = _converted(row, _Counted, where).num_prompt_tokens
        return question


class _Counted(msgspec.Struct):
    num_prompt_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]


def _answered(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with an answer, if it has none yet: only its place matters."""
    messages = row.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if isinstance(last, dict) and last.get("role") == ASSISTANT:
        return dict(row)
    return {**row, "response": None, "num_output_tokens": 1}


def _converted(row: Any, kind: type, where: str) -> Any:
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise SourceError(f"{where}: {error} (got {shown(row)})") from error


def _tag_file(model: ServedModel, data: Path, new: Path, reader: QuestionReader) -> None:
    with (
        data.open("rb") as lines,
        new.open("w", encoding="utf-8") as tagged,
        _progress(data.stat().st_size, "B") as progress,
    ):
        for batch in _batches(lines):
            rows = [_row(line, f"{data}, line {number}") for number, line in batch]
            questions = [
                reader.question(row, f"{data}, line {number}")
                for row, (number, _) in zip(rows, batch, strict=True)
            ]
            for row, estimate in zip(rows, model.estimate(questions), strict=True):
                tagged.write(json.dumps({**row, **tags(estimate)}) + "\n")
            progress(sum(len(line) for _, line in batch))


def _batches(lines: Iterator[bytes]) -> Iterator[list[tuple[int, bytes]]]:
    """Lines that are not blank, with their numbers from 1."""
    batch = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            batch.append((number, line))
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _row(line: bytes, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{where} is not JSON: {error} (got {shown(line)})") from error


def _tag_folder(model: ServedModel, data: Path, new: Path) -> None:
    splits = read_data_set(data)
    with _progress(sum(map(len, splits.values())), "row") as progress:
        tagged = {
            name: _with_tags(model, split, f"{data}, split {name}", progress)
            for name, split in splits.items()
        }
    DatasetDict(tagged).save_to_disk(str(new))
    if (data / PROVENANCE_FILE).exists():
        shutil.copy(data / PROVENANCE_FILE, new)


def _with_tags(
    model: ServedModel, split: Dataset, where: str, progress: Callable[[int], object]
) -> Dataset:
    questions = [example.question() for example in examples_of_rows(split, where)]
    found: list[dict[str, Any]] = []
    for start in range(0, len(questions), BATCH):
        batch = questions[start : start + BATCH]
        found += map(tags, model.estimate(batch))
        progress(len(batch))
    for column in found[0]:
        if column in split.column_names:
            split = split.remove_columns(column)
        split = split.add_column(column, [one[column] for one in found])
    return split


@contextmanager
def _progress(total: int, unit: str) -> Iterator[Callable[[int], object]]:
    with tqdm(total=total, desc="tagging", unit=unit, unit_scale=True, disable=None) as bar:
        yield bar.update
