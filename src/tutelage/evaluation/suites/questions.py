"""What every benchmark of choices becomes: paradigms of questions; and the fields of a line, with clear errors."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from typing import Any

from tutelage.base.errors import UserError
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.suites.formulas import Formula


@dataclass(frozen=True, slots=True)
class Question:
    """Options of which a model shall score the first above the others."""

    options: tuple[Item, ...]
    """Texts, the right one first."""
    name: str | None = field(default=None, repr=False)
    """What the benchmark calls this item, if anything; result files need it."""

    @property
    def key(self) -> str:
        """What a drawn tie depends on."""
        return json.dumps([(option.prefix, option.completion) for option in self.options])


@dataclass(frozen=True, slots=True)
class Paradigm:
    """Questions of one kind."""

    uid: str
    questions: tuple[Question, ...]
    field: str | None = None
    """What it belongs to, if the benchmark has such a division."""
    phenomenon: str | None = None
    """A finer division."""
    formulas: tuple[Formula, ...] = ()
    """Where given, a question is no choice: its options are parts of texts, and it is right if all these formulas over
    their surprisals hold (SyntaxGym)."""


def json_files(folder: Traversable, what: str, endings: tuple[str, ...] = (".jsonl",)) -> list[Traversable]:
    """Return the `.jsonl` files of a folder, sorted by name, or the one file given; `what` says what they hold."""
    if folder.is_file():
        return [folder]
    listed = " or ".join(endings)
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with {listed} files of {what}")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(endings)), key=lambda file: file.name)
    if not files:
        raise UserError(f"no {listed} file in {folder}: {what} are needed")
    return files


def optional_text(row: dict[str, Any], key: str, where: str) -> str | None:
    """Return a text, or None where the key is absent; something else is refused."""
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: '{key}' is {value!r}, not a text")
    return value


def text(row: dict[str, Any], key: str, where: str) -> str:
    """Return a text that must be there and not be empty."""
    value = optional_text(row, key, where)
    if not value:
        raise UserError(f"{where} has no '{key}', or an empty one (its keys: {', '.join(row)})")
    return value


def number(row: dict[str, Any], key: str, where: str) -> float:
    """Return a finite number that must be there."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{where}: '{key}' is {value!r}, not a number (its keys: {', '.join(row)})")
    return float(value)


def whole_number(row: dict[str, Any], key: str, where: str) -> int:
    """Return a whole number that must be there and not be negative."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UserError(f"{where}: '{key}' is {value!r}, not a whole number (its keys: {', '.join(row)})")
    return value


def grouped(questions: dict[str, list[Question]]) -> tuple[Paradigm, ...]:
    """Return paradigms that belong to nothing, sorted by name."""
    return tuple(Paradigm(uid, tuple(questions[uid])) for uid in sorted(questions))
