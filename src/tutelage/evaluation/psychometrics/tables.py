"""Tables of experiments from CSV files, with errors that name file, line and column; and what statistics need of them.

A cell without text is a missing number. Nothing else is: a word that reads "None" or "NA" is a word.
"""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.base.errors import UserError, nearest
from tutelage.base.types import Floats
from tutelage.evaluation.benchmarks.reading import read_text


@dataclass(frozen=True)
class CsvTable:
    """The cells of a CSV file with a header, by column; errors name the line."""

    path: Path
    rows: tuple[dict[str, str], ...]

    def texts(self, column: str) -> list[str]:
        """Return a column's cells as they stand."""
        return [row[column] for row in self.rows]

    def words(self, column: str) -> list[str]:
        """Return a column's cells; an empty one is a `UserError`."""
        for line, text in enumerate(self.texts(column), start=2):
            if not text.strip():
                raise UserError(f"{self.path}:{line} has no '{column}'; fill the cell or remove the line")
        return self.texts(column)

    def numbers(self, column: str) -> Floats:
        """Return a column as numbers, `(N,)`, NaN where a cell is empty; one that is no finite number is an error."""
        found = np.full(len(self.rows), np.nan)
        for index, text in enumerate(self.texts(column)):
            if not text.strip():
                continue
            with suppress(ValueError):
                found[index] = float(text)
            if not np.isfinite(found[index]):
                raise UserError(f"{self.path}:{index + 2}: '{column}' is {text!r}, not a number")
        return found


def read_table(path: Path, columns: Sequence[str], barred: str | None = None) -> CsvTable:
    """Read a CSV file in UTF-8 that must have `columns`; others are kept too.

    Where there is a column `barred`, cells with commas stand between bars, not quotes. No such file, another encoding,
    no rows, a missing column and a line with too few or too many cells are a `UserError`.
    """
    text = read_text(path)
    try:
        header = next(csv.reader(io.StringIO(text), strict=True), [])
        rows = list(csv.DictReader(io.StringIO(text), quotechar="|" if barred in header else '"', strict=True))
    except csv.Error as error:
        raise UserError(f"{path} is not a CSV file ({error})") from error
    missing = [column for column in columns if column not in header]
    if missing:
        hint = nearest(missing[0], header)
        raise UserError(f"{path} has no column '{missing[0]}'{hint} (its columns: {', '.join(header) or 'none'})")
    for line, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise UserError(f"{path}:{line} has another number of cells than the header's {len(header)}")
    if not rows:
        raise UserError(f"{path} has a header and no rows; is the download complete?")
    return CsvTable(path, tuple(rows))


def linear_models() -> Any:
    """Return `statsmodels.api`; a `UserError` where it is not installed."""
    try:
        return importlib.import_module("statsmodels.api")
    except ImportError as error:
        raise UserError("linear models need the `statsmodels` library: pip install 'tutelage[stats]'") from error
