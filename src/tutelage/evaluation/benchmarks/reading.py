"""Texts and JSON of benchmarks' files, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.base.types import Json


def read_text(file: Traversable | Path) -> str:
    """Return a file's text; a `UserError` where it is not there, or not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UserError(f"there is no file {file}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error


def json_file(file: Traversable | Path) -> Any:
    """Return what a JSON file holds; a `UserError` where it cannot be read."""
    try:
        return json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}:{error.lineno} is not JSON ({error.msg} at column {error.colno}); is the download complete?"
        ) from error


def json_lines(file: Traversable | Path, keys: Sequence[str], remedy: str = "") -> Iterator[tuple[str, Json]]:
    """Yield (file:line, object) of a file of JSON lines, or of one JSON array; empty lines are skipped.

    `keys`, which the objects should have, and the remedy for an empty file are for messages; the caller checks keys.

    Raises:
        UserError: a line that is no JSON object, or none at all.
    """
    content, empty = read_text(file), True
    if content.lstrip().startswith("["):
        content = "\n".join(json.dumps(row) for row in json_file(file))
    # Not `splitlines`: texts may hold other line separators than "\n".
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object with {' and '.join(keys)}: {line[:80]}")
        empty = False
        yield where, row
    if empty:
        raise UserError(f"{file} is empty; {remedy or 'remove it'}, or write lines with {' and '.join(keys)} into it")
