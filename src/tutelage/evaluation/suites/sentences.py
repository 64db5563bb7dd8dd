"""The sentences of evaluation sets, to look for them in a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tutelage.base.errors import UserError
from tutelage.corpus.reading import json_records, lines
from tutelage.evaluation.finetune.tasks import TASKS, read_scored
from tutelage.evaluation.suites.suites import find_suite, items_of
from tutelage.recipe.finetune import GLUE_7

ENDINGS = (".txt", ".jsonl")


def evaluation_sentences(name: str) -> list[str]:
    """Return the different texts of an evaluation set, right and wrong ones, in their order.

    Args:
        name: a suite (`blimp`, `starter-pairs`, `pairs:FOLDER`, ...), the rows of a fine-tuning task that are scored
            (`boolq`; `glue` for the seven of BabyLM), or a file or folder: `.txt` has a text a line, `.jsonl` an object
            a line, all texts of which count.

    Raises:
        UserError: an unknown name, files that are not on this machine, or broken ones.
    """
    path = Path(name).expanduser()
    found: Iterable[str]
    if name == "glue" or name in TASKS:
        rows = (row for task in (GLUE_7 if name == "glue" else (name,)) for row in read_scored(task))
        found = (text for row in rows for text in (row.first, row.second) if text is not None)
    elif path.suffix in ENDINGS or path.is_dir():
        found = _texts(path)
    else:
        found = (item.prefix + item.completion for item in items_of(find_suite(name)))
    return list(dict.fromkeys(text.strip() for text in found if text.strip()))


def _texts(path: Path) -> Iterator[str]:
    files = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix in ENDINGS)
    if not files:
        raise UserError(f"{path}: no {' or '.join(ENDINGS)} files there to compare a corpus with")
    for file in files:
        if file.suffix == ".txt":
            yield from lines(file)
        else:
            for _, record in json_records(file):
                yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _strings(part)
