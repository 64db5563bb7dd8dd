"""Result files of BabyLM 2023 and 2024, for comparisons with those years: one file of predictions each.

Their forms are those of `collect_results.py` in github.com/babylm/evaluation-pipeline-2023 (JSON lines, one for each
sub-task) and -2024 (one gzipped JSON object); ids are `<sub-task>_<line of the data file>`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.babylm.format import FORMATS
from tutelage.base.errors import UserError
from tutelage.base.files import write_bytes, write_text

SIZES_2024: Mapping[str, Mapping[str, int]] = {
    "glue": {
        "cola": 522, "sst2": 436, "mrpc": 204, "qqp": 20215, "mnli": 4908, "mnli-mm": 4916, "qnli": 2732, "rte": 139,
        "boolq": 1635, "multirc": 2424, "wsc": 52,
    },
    **{task.key: task.sizes for task in FORMATS["2025"].full if task.key in ("blimp", "blimp_supplement", "ewok")},
}  # fmt: skip
"""Items of each sub-task of 2024; BLiMP, supplement and EWoK are those of 2025."""

SUB_TASKS_2023: Mapping[str, Sequence[str]] = {
    "glue": ("cola", "sst2", "mrpc", "qqp", "mnli", "mnli-mm", "qnli", "rte", "boolq", "multirc", "wsc"),
    "msgs": (
        "main_verb_control", "control_raising_control", "syntactic_category_control", "relative_position_control",
        "lexical_content_the_control", "main_verb_lexical_content_the", "main_verb_relative_token_position",
        "control_raising_lexical_content_the", "control_raising_relative_token_position",
        "syntactic_category_lexical_content_the", "syntactic_category_relative_position",
    ),
    "blimp": (
        "anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement",
        "ellipsis", "filler_gap", "irregular_forms", "island_effects", "npi_licensing", "quantifiers",
        "subject_verb_agreement",
    ),
    "supplement": tuple(SIZES_2024["blimp_supplement"]),
}  # fmt: skip
"""Tasks of 2023 in the order of their lines; BLiMP is one file for each of its 12 phenomena."""

Predictions = Mapping[str, Mapping[str, Sequence[Any]]]
"""By task and sub-task what was predicted, in the order of the data file: class numbers, or texts."""


def write_2024(model: str, predictions: Predictions, folder: Path, incomplete: bool = False) -> Path:
    """Write `<model>_textonly_predictions.json.gz`; `incomplete` leaves empty what is missing, rather than refuse.

    Texts of BLiMP and its supplement are given without the space that the year's rules put in front, which is added.

    Raises:
        UserError: unknown, missing or wrongly sized sub-tasks.
    """
    _check(predictions, SIZES_2024, incomplete)
    for task, sizes in SIZES_2024.items():
        for name, found in predictions.get(task, {}).items():
            if len(found) != sizes[name]:
                raise UserError(f"{task}.{name} has {len(found)} predictions, its data file {sizes[name]} lines")
    spaced = ("blimp", "blimp_supplement")
    whole = {
        task: {
            name: {"predictions": _numbered(name, predictions[task][name], " " if task in spaced else "")}
            if name in predictions.get(task, {})
            else {}
            for name in sizes
        }
        for task, sizes in SIZES_2024.items()
    }
    path = folder / f"{model}_textonly_predictions.json.gz"
    # No time stamp: equal predictions give equal files.
    write_bytes(path, gzip.compress(json.dumps(whole).encode(), mtime=0))
    return path


def write_2023(predictions: Predictions, folder: Path, incomplete: bool = False) -> Path:
    """Write `all_predictions.json`, whose lines are the sub-tasks; predictions are texts there, also class numbers.

    Raises:
        UserError: unknown or missing sub-tasks.
    """
    _check(predictions, SUB_TASKS_2023, incomplete)
    lines = [
        {"task": task, "sub_task": name, "predictions": _numbered(name, [str(one) for one in predictions[task][name]])}
        for task, names in SUB_TASKS_2023.items()
        for name in names
        if name in predictions.get(task, {})
    ]
    path = folder / "all_predictions.json"
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
    return path


def _numbered(name: str, found: Sequence[Any], before: str = "") -> list[dict[str, Any]]:
    return [{"id": f"{name}_{index}", "pred": before + one if before else one} for index, one in enumerate(found)]


def _check(predictions: Predictions, known: Mapping[str, Any], incomplete: bool) -> None:
    given = {(task, name) for task, found in predictions.items() for name in found}
    wanted = {(task, name) for task, names in known.items() for name in names}
    for kind, names in (("unknown", given - wanted), ("missing", set() if incomplete else wanted - given)):
        if names:
            listed = ", ".join(f"{task}.{name}" for task, name in sorted(names))
            remedy = "; missing ones are left out with incomplete=True" if kind == "missing" else ""
            raise UserError(f"{kind} sub-tasks: {listed}{remedy}")
