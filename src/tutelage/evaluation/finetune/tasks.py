"""The classification tasks: what a row holds, how it becomes text, how many labels there are, which score counts.

Files are JSON lines, one for training and one that is scored, `<task>.train.jsonl` and `<task>.valid.jsonl`, with the
keys of BabyLM's `glue_filtered` (2024 to 2026); 2023's names (`<task>.validation.json`,
`mnli.validation_matched.json`) are found too. They are looked for in `glue`, `glue_filtered`, `msgs` and
`msgs_filtered` of `$TUTELAGE_DATA`, then of `${TUTELAGE_CACHE:-~/.cache/tutelage}`.

Texts are put together as in BabyLM's `finetune_classification.py` (2023), which later years kept.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from tutelage.base.errors import MissingData, UserError, nearest
from tutelage.evaluation.benchmarks.data import data_folders
from tutelage.evaluation.benchmarks.reading import json_lines
from tutelage.evaluation.finetune.metrics import Metric
from tutelage.recipe.finetune import GLUE_7, GLUE_11, MSGS, FinetuneRules

FOLDERS = ("glue", "glue_filtered", "msgs", "msgs_filtered")
SOURCE = "https://osf.io/ryjfm (BabyLM 2025, evaluation_data/full_eval/glue_filtered)"
SOURCE_2023 = "https://github.com/babylm/evaluation-pipeline-2023 (filter_data.zip)"
LICENCE = "each task has its authors' own licence, some none: do not pass the files on"


@dataclass(frozen=True, slots=True)
class FinetuningTask:
    """A classification task."""

    name: str
    first: str
    """Template of the text, keys of the row in braces."""
    second: str | None = None
    """Template of the second text of a pair."""
    labels: int = 2
    """How many there are: 0, 1, ..."""
    headline: Metric = "accuracy"
    """The score that tables show: accuracy, but F1 for MRPC and QQP and Matthews' correlation for CoLA and MSGS; the
    same in all years."""
    trained_as: str | None = None
    """The task whose model is scored, where it is not its own."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys that a row must have beside `label`."""
        templates = self.first + (self.second or "")
        return tuple(key for _, key, _, _ in string.Formatter().parse(templates) if key)

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The scores that are reported; F1 is that of label 1, so of two labels only."""
        return ("accuracy", "f1", "mcc") if self.labels == 2 else ("accuracy", "mcc")

    def chosen_by(self, rules: FinetuneRules) -> Metric:
        """Return the score by which the best checkpoint is chosen; rules of no year take the headline."""
        if rules in ("2023", "2024"):
            return "f1" if self.labels == 2 else "accuracy"
        if rules in ("2025", "2026") and self.name in GLUE_7:
            return "f1" if self.name in ("mrpc", "qqp") else "accuracy"
        return self.headline


@dataclass(frozen=True, slots=True)
class LabelledText:
    """One or two texts and their label."""

    first: str
    second: str | None
    label: int


TASKS: Mapping[str, FinetuningTask] = {
    task.name: task
    for task in (
        FinetuningTask("cola", "{sentence}", headline="mcc"),
        FinetuningTask("sst2", "{sentence}"),
        FinetuningTask("mrpc", "{sentence1}", "{sentence2}", headline="f1"),
        FinetuningTask("qqp", "{question1}", "{question2}", headline="f1"),
        FinetuningTask("mnli", "{premise}", "{hypothesis}", labels=3),
        FinetuningTask("mnli-mm", "{premise}", "{hypothesis}", labels=3, trained_as="mnli"),
        FinetuningTask("qnli", "{question}", "{sentence}"),
        FinetuningTask("rte", "{sentence1}", "{sentence2}"),
        FinetuningTask("boolq", "{question}", "{passage}"),
        FinetuningTask("multirc", "Question: {question} Answer: {answer}", "{paragraph}"),
        FinetuningTask("wsc", 'Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}"),
        *(FinetuningTask(name, "{sentence}", headline="mcc") for name in MSGS),
    )
}


def find_task(name: str) -> FinetuningTask:
    """Return a task by name; an unknown one is refused with the nearest."""
    if name not in TASKS:
        raise UserError(f"unknown fine-tuning task '{name}'{nearest(name, TASKS)} (known: {', '.join(TASKS)})")
    return TASKS[name]


def averaged(rules: FinetuneRules) -> tuple[str, ...]:
    """Return the tasks whose mean is a year's GLUE score."""
    return GLUE_11 if rules in ("2023", "2024") else GLUE_7


def trained_together(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Group tasks that one training serves, in the order of their first member."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(find_task(name).trained_as or name, []).append(name)
    return [tuple(group) for group in groups.values()]


def read_train(name: str, folder: Path | None = None) -> list[LabelledText]:
    """Read the training rows of a task; see `read_rows`."""
    own = find_task(find_task(name).trained_as or name)
    file = _file(own, "train", folder)
    rows = read_rows(own, file)
    present = {row.label for row in rows}
    if len(present) < 2:
        raise UserError(f"{file} has only the label {present.pop()}: there is nothing to learn")
    return rows


def read_scored(name: str, folder: Path | None = None) -> list[LabelledText]:
    """Read the rows that are scored; see `read_rows`."""
    task = find_task(name)
    return read_rows(task, _file(task, "valid", folder))


def files_of(name: str) -> tuple[Path, Path]:
    """Return where a task's rows to train on and those that are scored are; missing files are refused."""
    task = find_task(name)
    return _file(find_task(task.trained_as or name), "train", None), _file(task, "valid", None)


def read_rows(task: FinetuningTask, file: Path) -> list[LabelledText]:
    """Read a file of JSON lines (or one JSON array).

    Raises:
        UserError: no rows, no JSON, a missing key, or a label that the task does not have; with file and line.
    """
    rows, keys = [], (*task.keys, "label")
    for where, row in json_lines(file, keys, f"get it again from {_source(task)}"):
        if missing := [key for key in keys if key not in row]:
            raise UserError(f"{where} has no '{missing[0]}' (its keys: {', '.join(row)}); {task.name} needs "
                            f"{', '.join(keys)}")  # fmt: skip
        for key in task.keys:
            if not isinstance(row[key], str):
                raise UserError(f"{where}: '{key}' is {row[key]!r}, not a text")
        label = int(row["label"]) if isinstance(row["label"], bool) else row["label"]
        if not isinstance(label, int) or not 0 <= label < task.labels:
            raise UserError(f"{where}: label {label!r} is none of {task.name}'s, 0 to {task.labels - 1} (rows of "
                            "hidden test sets have -1: they cannot be scored)")  # fmt: skip
        rows.append(LabelledText(task.first.format(**row), task.second.format(**row) if task.second else None, label))
    return rows


def _file(task: FinetuningTask, split: str, folder: Path | None) -> Path:
    """Find a task's file by any of its published names."""
    stems = [f"{task.name}.{split}"]
    if split == "valid":
        of_2023 = {"mnli": "mnli.validation_matched", "mnli-mm": "mnli.validation_mismatched"}
        stems.append(of_2023.get(task.name, f"{task.name}.validation"))
    places = [folder] if folder else [place / name for place in data_folders() for name in FOLDERS]
    for place, stem, ending in product(places, stems, ("jsonl", "json")):
        if (path := place / f"{stem}.{ending}").is_file():
            return path
    raise MissingData(
        f"{stems[0]}.jsonl of the task '{task.name}' is not on this machine. Get it from {_source(task)} (licence: "
        f"{LICENCE}) and put it into {folder or data_folders()[-1] / FOLDERS[0]}"
        + ("" if folder else f", or into $TUTELAGE_DATA/{FOLDERS[0]}")
    )


def _source(task: FinetuningTask) -> str:
    return SOURCE_2023 if task.name in MSGS else SOURCE
