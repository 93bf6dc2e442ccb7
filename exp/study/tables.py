"""Request records as Arrow tables and Parquet files: the columns are the fields of the record."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from exp.study.errors import ResultError
from exp.study.records import RequestRecord

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def _arrow_type(annotation: object) -> pa.DataType:
    """Of a field: ``X``, ``X | None`` or a literal of strings."""
    options = [one for one in typing.get_args(annotation) if one is not type(None)]
    first = options[0] if options else annotation
    return _TYPES[first] if isinstance(first, type) else pa.string()


SCHEMA = pa.schema(
    [
        pa.field(name, _arrow_type(annotation), nullable=type(None) in typing.get_args(annotation))
        for name, annotation in typing.get_type_hints(RequestRecord).items()
    ]
)
"""Of ``RequestRecord``: strings, 64-bit integers, doubles (null for None) and booleans."""


def to_table(records: Sequence[RequestRecord]) -> pa.Table:
    """A row a record, in the order given."""
    columns = {
        field.name: [getattr(one, field.name) for one in records]
        for field in dataclasses.fields(RequestRecord)
    }
    return pa.table(columns, schema=SCHEMA)


def to_records(table: pa.Table) -> list[RequestRecord]:
    """The records of a table with at least the columns of ``SCHEMA``."""
    return [RequestRecord(**row) for row in table.select(SCHEMA.names).to_pylist()]


def write_table(table: pa.Table, file: Path, notes: Mapping[str, str] | None = None) -> None:
    """Write Parquet whole or not at all; ``notes`` become metadata of the file."""
    if notes:
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), **notes})
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    pq.write_table(table, unfinished, compression="zstd")
    unfinished.replace(file)


def read_table(file: Path) -> tuple[pa.Table, dict[str, str]]:
    """Rows and notes.

    Raises:
        ResultError: the file is missing, damaged or of another kind.
    """
    try:
        table = pq.read_table(file)
    except (OSError, pa.ArrowException) as error:
        raise ResultError(f"{file}: not a readable Parquet file: {error}") from None
    missing = sorted(set(SCHEMA.names) - set(table.schema.names))
    if missing:
        raise ResultError(f"{file}: lacks the columns {', '.join(missing)}")
    metadata = table.schema.metadata or {}
    return table, {key.decode(): value.decode() for key, value in metadata.items()}
