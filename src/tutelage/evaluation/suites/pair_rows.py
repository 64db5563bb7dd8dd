"""The rows of files of minimal pairs: JSON lines, tables, and sentences in turn; and which columns hold what.

Benchmarks of many languages say the same with other names. `KNOWN` lists those that are recognised by their columns;
for others the columns are named behind the path: `pairs:mine.csv?good=right&bad=wrong&paradigm=kind`.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from tutelage.base.errors import UserError, nearest
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.reading import json_lines, read_text

ENDINGS = (".jsonl", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Columns:
    """The names of what a row holds."""

    good: str
    bad: str
    paradigm: tuple[str, ...]
    """The first of these that a row has a value of names its paradigm; the file's name where it has none."""
    right: str | None = None
    """A column that says which of the two is the good one: `0` or `1`."""


KNOWN = {
    "BLiMP": Columns("sentence_good", "sentence_bad", ("UID", "paradigm", "category", "linguistic_phenomenon")),
    # TurBLiMP's UID numbers the pair; its files are the paradigms.
    "TurBLiMP, JBLiMP": Columns("good_sentence", "bad_sentence", ("paradigm", "type")),
    "MultiBLiMP": Columns("sen", "wrong_sen", ("phenomenon",)),
    "RuBLiMP": Columns("source_sentence", "target_sentence", ("subtype", "phenomenon")),
    "QFrBLiMP": Columns("sentence_a", "sentence_b", ("subcat", "type"), right="label"),
}
"""By benchmark, the columns of its files."""


def split_path(written: str) -> tuple[str, Columns | None]:
    """Take the columns that are named behind a path from it.

    Raises:
        UserError: a name that is no part of `Columns`, or `good` without `bad`.
    """
    path, _, query = written.partition("?")
    if not query:
        return path, None
    given, known = dict(parse_qsl(query)), [part.name for part in fields(Columns)]
    for key in given:
        if key not in known:
            raise UserError(f"pairs:{written}: unknown '{key}'{nearest(key, known)} (known: {', '.join(known)})")
    if "good" not in given or "bad" not in given:
        raise UserError(f"pairs:{written}: name both columns, as in pairs:{path}?good=right&bad=wrong")
    paradigm = (given["paradigm"],) if "paradigm" in given else ()
    return path, Columns(given["good"], given["bad"], paradigm, given.get("right"))


def pair_rows(file: Traversable) -> Iterator[tuple[str, Json]]:
    """Yield (file:line, row) of a file.

    Raises:
        UserError: a broken line or table, or none at all.
    """
    if file.name.endswith(".parquet"):
        yield from _parquet(file)
    elif not file.name.endswith((".csv", ".tsv")):
        yield from json_lines(file, ("sentence_good", "sentence_bad"))
    elif (content := read_text(file)).startswith(("True\t", "False\t")):
        yield from _in_turn(file, content)
    else:
        yield from _table(file, content)


def columns_of(row: Json, where: str) -> Columns:
    """Recognise a benchmark by a row's columns.

    Raises:
        UserError: it is none of `KNOWN`.
    """
    for columns in KNOWN.values():
        if columns.good in row or columns.bad in row:  # one that is missing is told later
            return columns
    known = "; ".join(f"{columns.good}, {columns.bad}" for columns in KNOWN.values())
    raise UserError(
        f"{where} has the columns {', '.join(map(str, row))}, and none of the pairs that are known ({known}): name "
        f"them behind the path, as in pairs:FILE?good=right&bad=wrong&paradigm=kind"
    )


def _table(file: Traversable, content: str) -> Iterator[tuple[str, Json]]:
    head = content.partition("\n")[0]
    delimiter = max("\t;,", key=head.count)
    rows = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    empty = True
    try:
        for row in rows:
            where, empty = f"{file}:{rows.line_num}", False
            if None in row or None in row.values():
                raise UserError(f"{where} has {'more' if None in row else 'fewer'} columns than the first line names")
            yield where, row
    except csv.Error as error:
        raise UserError(f"{file}:{rows.line_num}: no sound table ({error}); mend the line") from error
    if empty:
        raise UserError(f"{file} holds no pair: it has {'one line' if head else 'nothing'} only")


def _in_turn(file: Traversable, content: str) -> Iterator[tuple[str, Json]]:
    """CLAMS (Mueller et al. 2020): `True` or `False` and a sentence, in pairs of lines."""
    lines = [line.split("\t", 1) for line in content.rstrip("\n").split("\n")]
    for first in range(0, len(lines), 2):
        where = f"{file}:{first + 1}"
        said = {line[0]: line[1] for line in lines[first : first + 2] if len(line) == 2}
        if said.keys() != {"True", "False"}:
            raise UserError(f"{where}: two lines in turn should begin with True and with False, and a tab")
        yield where, {"sentence_good": said["True"].strip(), "sentence_bad": said["False"].strip()}


def _parquet(file: Traversable) -> Iterator[tuple[str, Json]]:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(f"{file}: Parquet files need pyarrow: pip install 'tutelage[data]'") from error
    try:
        rows = parquet.read_table(Path(str(file))).to_pylist()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as Parquet ({error}): fetch it again") from error
    if not rows:
        raise UserError(f"{file} holds no pair")
    yield from ((f"{file}, record {number}", row) for number, row in enumerate(rows, start=1))
