"""One text of a study corpus, with its labels and where each came from; and files of them, a JSON object a line.

The lines of the starter corpus are such lines. What a line may hold beside `kind` and its text (`text`, `text_pair` for
a pair, or `words` for a text cut into words):

    labels          by task: a label, or for tagging tasks a label for each of `words`; a missing task is not labelled
    confidence      by task: how sure the label is, between 0 and 1, where the teacher was asked more than once
    task            the task that the text was written for
    origin          key of the stored request that wrote it
    label_origins   by task: keys of the stored requests that labelled it
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

from tutelage.base.errors import UserError
from tutelage.base.files import write_lines
from tutelage.corpus.reading import json_records
from tutelage.corpus.study_plan import TaskKind

KINDS = get_args(TaskKind)
FIELDS = {"kind", "text", "text_pair", "words", "labels", "confidence", "task", "origin", "label_origins", "id"}

Label = str | tuple[str, ...]
"""Of a text or a pair; or of each of its words."""


@dataclass(frozen=True)
class Example:
    """A text or a pair, and what is known about it."""

    kind: TaskKind  # of the lesson it was written for
    text: str  # words joined by spaces where `words` are given
    text_pair: str | None = None  # the second text of a pair
    words: tuple[str, ...] | None = None  # the text cut into the words that tags belong to
    labels: Mapping[str, Label] = field(default_factory=dict)  # by task
    confidence: Mapping[str, float] = field(default_factory=dict)  # by task, 0 to 1; whole where missing
    task: str | None = None  # what it was written for
    origin: str = ""  # key of the request that wrote it; empty for texts from elsewhere
    label_origins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @cached_property
    def id(self) -> str:
        """Digest of the text alone: equal texts are one example, whatever is known about them."""
        whole = json.dumps([self.text, self.text_pair], ensure_ascii=False)
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    @property
    def texts(self) -> tuple[str, ...]:
        """The text, or the two of a pair."""
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    @property
    def word_count(self) -> int:
        """Whitespace words of all its text."""
        return sum(len(text.split()) for text in self.texts)

    def takes(self, tagged_words: int | None = None) -> tuple[TaskKind, ...]:
        """Return the kinds of tasks that could label it; words are tagged where spaces alone part them, on one line,
        in texts of at most `tagged_words` words.
        """
        if self.text_pair is not None:
            return ("pair_classification",)
        words = self.text.split()
        tagged = (tagged_words is None or len(words) <= tagged_words) and " ".join(words) == self.text
        return ("classification", "tagging") if tagged else ("classification",)

    def record(self) -> dict[str, Any]:
        """Return it as a line's object, defaults left out."""
        found: dict[str, Any] = {"id": self.id, "kind": self.kind}
        found |= {} if self.task is None else {"task": self.task}
        found |= {"text": self.text} if self.words is None else {"words": list(self.words)}
        found |= {} if self.text_pair is None else {"text_pair": self.text_pair}
        for key in ("labels", "confidence", "origin", "label_origins"):
            if value := getattr(self, key):
                found[key] = dict(value) if isinstance(value, Mapping) else value
        return found


def example_of(record: Mapping[str, Any], where: str) -> Example:
    """Make an example of a line's object; `where` is its file and line.

    Raises:
        UserError: unknown or missing fields, values of another type, tags that do not fit the words.
    """
    try:
        _check_fields(record)
        text, words = _text_and_words(record)
        labels, confidence, origins = (record.get(key) or {} for key in ("labels", "confidence", "label_origins"))
        _check_labels(labels, 0 if words is None else len(words))
        for name, sure in confidence.items():
            if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
                raise ValueError(f"'confidence.{name}' is no number between 0 and 1")
        if not all(isinstance(keys, list) and all(isinstance(key, str) for key in keys) for keys in origins.values()):
            raise ValueError("'label_origins' holds lists of request keys")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return Example(
        kind=record["kind"],
        text=text,
        text_pair=record.get("text_pair"),
        words=words,
        labels={name: tuple(label) if isinstance(label, list) else label for name, label in labels.items()},
        confidence={name: float(sure) for name, sure in confidence.items()},
        task=record.get("task"),
        origin=record.get("origin") or "",
        label_origins={name: tuple(keys) for name, keys in origins.items()},
    )


def _check_fields(record: Mapping[str, Any]) -> None:
    """Refuse unknown fields, and values of the wrong type but for texts and what stands by task."""
    if unknown := sorted(record.keys() - FIELDS):
        raise ValueError(f"unknown field '{unknown[0]}' (an example has {', '.join(sorted(FIELDS))})")
    if record.get("kind") not in KINDS:
        raise ValueError(f"'kind' is {record.get('kind')!r}, not one of {', '.join(KINDS)}")
    for key in ("text_pair", "task", "origin"):
        if not isinstance(record.get(key), str | None):
            raise ValueError(f"'{key}' is not text")
    if not all(isinstance(record.get(key) or {}, dict) for key in ("labels", "confidence", "label_origins")):
        raise ValueError("'labels', 'confidence' and 'label_origins' are objects with a key for each task")


def _text_and_words(record: Mapping[str, Any]) -> tuple[str, tuple[str, ...] | None]:
    """Return the text, and its words where it is cut into some."""
    words = record.get("words")
    if words is not None and not _are_words(words):
        raise ValueError("'words' is no list of words without spaces")
    if ("text" in record) == (words is not None):
        raise ValueError("an example has either 'text' or 'words'")
    text = " ".join(words) if words is not None else record["text"]
    if not isinstance(text, str):
        raise ValueError("'text' is not text")
    if not text.strip():
        raise ValueError("the text is empty")
    if (record["kind"] == "pair_classification") != (record.get("text_pair") is not None):
        raise ValueError("'text_pair' goes with the kind pair_classification, and only with it")
    return text, None if words is None else tuple(words)


def _check_labels(labels: Mapping[str, Any], words: int) -> None:
    """Refuse what is neither a label nor a label for each of so many words."""
    for name, label in labels.items():
        if isinstance(label, list):
            if not words or not _are_words(label) or len(label) != words:
                raise ValueError(f"'labels.{name}' is no list of a label for each of {words} words")
        elif not isinstance(label, str):
            raise ValueError(f"'labels.{name}' is neither a label nor a list of labels")


def _are_words(value: Any) -> bool:
    """Tell whether a value is a list of words: texts without white space, none empty."""
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) and v.split() == [v] for v in value)


def read_examples(path: Path) -> Iterator[Example]:
    """Yield the examples of a file; a line that is none is refused by its number."""
    for number, record in json_records(path):
        yield example_of(record, f"{path}, line {number}")


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """Write a file of examples, whole or not at all; they may come one by one."""
    write_lines(path, (f"{json.dumps(example.record(), ensure_ascii=False)}\n" for example in examples))
