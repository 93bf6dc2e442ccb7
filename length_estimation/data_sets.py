"""Reads the data sets that ``python -m length_estimation sample`` makes; imports no torch."""

from __future__ import annotations

from pathlib import Path

import msgspec
from datasets import Dataset, DatasetDict, load_from_disk

from length_estimation.examples import Example

COLUMNS = list(Example.__struct_fields__)


class DataError(Exception):
    """A data set cannot be used; the message says where it lies and what is wrong."""


def read_data_set(folder: Path) -> DatasetDict:
    """All splits.

    Raises:
        DataError: there is no such data set, or a split is empty or lacks a column.
    """
    try:
        found = load_from_disk(str(folder))
    except IndexError as error:  # the library writes a split without rows, but cannot read it
        raise DataError(f"{folder}: a split is empty") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{folder} holds no data set: {error}") from error
    if not isinstance(found, DatasetDict):
        raise DataError(f"{folder} has no splits; make some with: length_estimation sample")
    for name, split in found.items():
        if not len(split):
            raise DataError(f"{folder}: the split {name!r} is empty")
        missing = [column for column in COLUMNS if column not in split.column_names]
        if missing:
            raise DataError(f"{folder}, split {name}: there is no column {missing[0]!r}")
    return found


def read_examples(folder: Path, split: str) -> list[Example]:
    """The examples of one split.

    Raises:
        DataError: there is no such data set or split, or a value is wrong.
    """
    data_set = read_data_set(folder)
    if split not in data_set:
        raise DataError(f"{folder} has no split {split!r}, only {sorted(data_set)}")
    return examples_of_rows(data_set[split], f"{folder}, split {split}")


def examples_of_rows(rows: Dataset, where: str) -> list[Example]:
    """The rows of a data set as examples.

    Raises:
        DataError: a value is wrong; names ``where``, and the key.
    """
    try:
        return [msgspec.convert(row, Example) for row in rows.select_columns(COLUMNS)]
    except msgspec.ValidationError as error:
        raise DataError(f"{where}: {error}") from error
