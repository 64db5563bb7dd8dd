"""The texts of files that hold one in each record: JSON lines, comma- and tab-separated tables, Parquet."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tutelage.base.errors import UserError
from tutelage.base.types import Json
from tutelage.corpus import reading

TableFormat = Literal["jsonl", "csv", "tsv", "parquet"]


def texts(path: Path, kind: TableFormat, field: str, encoding: str, left_out: list[int]) -> Iterator[str]:
    """Yield the text of each record; of those whose field is no text, the numbers go to `left_out`.

    Raises:
        UserError: a record without the field, no record with text in it, a text that is none, or a broken file.
    """
    some = False
    for number, record in _records(path, kind, field, encoding):
        where = f"{path}, {'line' if kind == 'jsonl' else 'record'} {number}"
        if not isinstance(record, dict):
            left_out.append(number)
            continue
        if field not in record:
            raise UserError(f"{where}: no '{field}' (it has {sorted(map(str, record))}); set data.text_field to the "
                            "field that holds the text")  # fmt: skip
        text = record[field]
        if not isinstance(text, str):
            left_out.append(number)
            continue
        if fault := reading.unsound(text):
            raise UserError(f"{where}: {fault} in '{field}'; take it out")
        some = True
        yield text.replace("\r\n", "\n").replace("\r", "\n")
    if left_out and not some:
        raise UserError(
            f"{path}: '{field}' holds no text in any record; set data.text_field to the field that holds the text"
        )


def _records(path: Path, kind: TableFormat, field: str, encoding: str) -> Iterator[tuple[int, Any]]:
    if kind == "jsonl":
        yield from reading.json_values(path, encoding)
    elif kind == "parquet":
        yield from _parquet(path, field)
    else:
        yield from _separated(path, "," if kind == "csv" else "\t", encoding)


def _separated(path: Path, delimiter: str, encoding: str) -> Iterator[tuple[int, Json]]:
    csv.field_size_limit(reading.MAX_LINE)
    rows = csv.DictReader(reading.lines(path, encoding), delimiter=delimiter, strict=True)
    try:
        yield from enumerate(rows, 1)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: no sound table ({error}); mend the line") from error


def _parquet(path: Path, field: str) -> Iterator[tuple[int, Json]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{path}: Parquet files need pyarrow: pip install 'tutelage[data]'") from error
    try:
        file = parquet.ParquetFile(path)
        if field not in (there := file.schema_arrow.names):
            raise UserError(f"{path}: no '{field}' (it has {sorted(there)}); set data.text_field to the column that "
                            "holds the text")  # fmt: skip
        number = 0
        for batch in file.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield number, {field: value}
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read as Parquet ({error}): fetch it again") from error
