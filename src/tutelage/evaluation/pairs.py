"""Minimal pairs from JSON lines: one object a line with `sentence_good` and `sentence_bad`.

`UID` names the paradigm (the file's name where it is absent), `field` and `linguistics_term` what it belongs to; other
keys are ignored. It is the format of BLiMP (Warstadt et al. 2020), and of BabyLM's supplement, which has the two
sentences only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from tutelage.errors import UserError
from tutelage.evaluation.items import Item

AS_PUBLISHED = {"syntax_semantics": "syntax/semantics", "s-selection": "argument_structure"}
"""BLiMP's files write one field in two ways, and one of the paper's 12 phenomena under two names."""


@dataclass(frozen=True, slots=True)
class Question:
    """Options of which a model shall score the first above the others."""

    options: tuple[Item, ...]

    @property
    def key(self) -> str:
        """What a drawn tie depends on."""
        return json.dumps([(option.prefix, option.completion) for option in self.options])


@dataclass(frozen=True, slots=True)
class Paradigm:
    """Questions of one kind, with the same number of options each."""

    uid: str
    questions: tuple[Question, ...]
    field: str | None = None
    phenomenon: str | None = None


def read_pairs(folder: Traversable) -> tuple[Paradigm, ...]:
    """Read the paradigms of a folder of `.jsonl` files, sorted by name.

    Raises:
        UserError: no folder, no such file, an empty file, a line that is no JSON object with two non-empty sentences,
            or a paradigm with two fields; with file and line. (A pair of equal sentences is a tie; BLiMP has some.)
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; give one with .jsonl files of minimal pairs")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".jsonl")), key=lambda file: file.name)
    if not files:
        raise UserError(f"no .jsonl file in {folder}: minimal pairs are JSON lines with sentence_good and sentence_bad")
    questions: dict[str, list[Question]] = {}
    kinds: dict[str, tuple[str | None, str | None]] = {}
    for file in files:
        for where, row in _lines(file):
            uid = _text(row, "UID", where) or file.name.removesuffix(".jsonl")
            labels = [_text(row, key, where) for key in ("field", "linguistics_term")]
            field, phenomenon = (AS_PUBLISHED.get(label, label) if label else None for label in labels)
            kind = (field, phenomenon)
            if kinds.setdefault(uid, kind) != kind:
                raise UserError(f"{where}: paradigm '{uid}' has field and linguistics_term {kind}, before it had "
                                f"{kinds[uid]}; give the two kinds two UIDs")  # fmt: skip
            questions.setdefault(uid, []).append(Question(_options(row, where)))
    return tuple(Paradigm(uid, tuple(questions[uid]), *kinds[uid]) for uid in sorted(questions))


def _lines(file: Traversable) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (file:line, object) of a file; empty lines are skipped."""
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start}); convert it first") from error
    empty = True
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{where} is not JSON ({error.msg} at column {error.colno})") from error
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object with sentence_good and sentence_bad: {line[:80]}")
        empty = False
        yield where, row
    if empty:
        raise UserError(f"{file} is empty; remove it or write pairs into it")


def _options(row: dict[str, Any], where: str) -> tuple[Item, Item]:
    good, bad = (_text(row, key, where) for key in ("sentence_good", "sentence_bad"))
    if not good or not bad:
        missing = "sentence_bad" if good else "sentence_good"
        raise UserError(f"{where} has no '{missing}', or an empty one (its keys: {', '.join(row)})")
    return Item(good), Item(bad)


def _text(row: dict[str, Any], key: str, where: str) -> str | None:
    value = row.get(key)
    if value is not None and not isinstance(value, str):
        raise UserError(f"{where}: '{key}' is {value!r}, not a text")
    return value
