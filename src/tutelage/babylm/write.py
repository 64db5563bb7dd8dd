"""Result files as BabyLM 2025 and 2026 ask for them: predictions of every task, and the file that collates them.

    results/<model>/main/zero_shot/<backend>/<task>/<data folder>/predictions.json
                         .../reading/predictions.json
                         .../AoA_word/surprisal.json  (2026: and aoa_score.json)
                    /main/finetune/<task>/predictions.json
                    /chck_1M/zero_shot/...                     the fast versions, for every checkpoint
                    /all_full_preds_and_fast_scores_<backend>.json

What each of them holds is in `format`. The scorers pair predictions with the lines of the data files, so order is
everything; `check` looks at it. The published reports in words beside the predictions are read by nobody, not written.

Shapes: N items.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.babylm.check import Fault, validate_submission
from tutelage.babylm.format import (
    FORMATS,
    SubmissionBackend,
    SubmissionFormat,
    SubmissionTask,
    TrackName,
    Year,
    collated_file,
    final_files,
    prediction_file,
    schedule,
)
from tutelage.base.errors import UserError, nearest
from tutelage.base.files import new_folder
from tutelage.base.progress import console
from tutelage.base.types import Ints, Json
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.results import MeasuredResult
from tutelage.evaluation.suites.questions import Paradigm, Question

FILE_NAMES = {"wug_adj_nominalization": "wug_adj", "wug_past_tense": "wug_past"}
"""Sub-tasks whose data files have another name."""


@dataclass(frozen=True)
class Fast:
    """A checkpoint on one fast task: its predictions, and the scores that are collated, as fractions by sub-task."""

    predictions: Json
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Submission:
    """Everything that goes into a submission of the model that names the folder."""

    model: str
    year: Year
    track: TrackName
    backend: SubmissionBackend
    full: Mapping[str, Json]
    """Predictions of the final model by task, `boolq` and its like included."""
    fast: Mapping[str, Mapping[str, Fast]] = field(default_factory=dict)
    """By revision (`chck_1M`), then by task."""
    surprisals: Json | None = None
    """Of words at every checkpoint, `{"metadata": ..., "results": [...]}`."""
    age_of_acquisition: float | None = None
    """The score that 2026 collates beside them."""


def suite_predictions(
    task: SubmissionTask, paradigms: Sequence[Paradigm], chosen: Mapping[str, Ints], ids: Sequence[str] | None = None
) -> Json:
    """Turn a suite's answers, by UID as in `SuiteResult.chosen`, into predictions of a task's shape.

    Args:
        paradigms: the questions, in the order of the data files.
        ids: `example_id` of each question, for tasks whose predictions have keys of their own (Global PIQA).

    Raises:
        UserError: questions without an answer, or examples without as many names.
    """
    said: Json = {}
    for paradigm in paradigms:
        if paradigm.uid not in chosen or len(chosen[paradigm.uid]) != len(paradigm.questions):
            raise UserError(f"{task.key}: not all questions of '{paradigm.uid}' have answers; score it again")
        name = FILE_NAMES.get(paradigm.uid, paradigm.uid)
        answers = zip(paradigm.questions, chosen[paradigm.uid].tolist(), strict=True)
        texts = [text_of(task, question.options[one]) for question, one in answers]
        said[name] = [{"id": f"{name}_{index}", "pred": text} for index, text in enumerate(texts)]
    if task.shape != "example":
        return {name: {"predictions": found} for name, found in said.items()}
    found = [one["pred"] for predictions in said.values() for one in predictions]
    if ids is None or len(ids) != len(found):
        raise UserError(f"{task.key}: {len(found)} predictions need as many example_id, {len(ids or ())} were given")
    return {name: {"predictions": [{"id": f"{name}_0", "pred": pred}]} for name, pred in zip(ids, found, strict=True)}


def text_of(task: SubmissionTask, option: Item) -> str:
    """Return what a chosen option looks like in a task's predictions."""
    return option.prefix + option.completion if task.shape == "sentence" else option.completion


def options_of(task: SubmissionTask, paradigms: Sequence[Paradigm], ids: Sequence[str] | None = None) -> dict[str, Any]:
    """Return by sub-task what each prediction may say, for `validate_submission(..., options={task.key: ...})`."""
    texts = {
        FILE_NAMES.get(paradigm.uid, paradigm.uid): [
            [text_of(task, option) for option in question.options] for question in paradigm.questions
        ]
        for paradigm in paradigms
    }
    if ids is None:
        return texts
    return {name: [one] for name, one in zip(ids, (one for found in texts.values() for one in found), strict=True)}


def label_predictions(task: str, labels: Sequence[int]) -> Json:
    """Turn class numbers, in the order of the validation file, into predictions."""
    predictions = [{"id": f"{task}_{index}", "pred": int(label)} for index, label in enumerate(labels)]
    return {task: {"predictions": predictions}}


def accuracies(task: SubmissionTask, paradigms: Sequence[Paradigm], predictions: Json) -> dict[str, float]:
    """Return the share of right predictions by sub-task, as the published code compares: texts, without outer spaces.

    Global PIQA has one number, under the task's own name.
    """

    def share(found: Sequence[Json], questions: Sequence[Question]) -> float:
        pairs = zip(found, questions, strict=True)
        return float(np.mean([p["pred"].strip() == text_of(task, q.options[0]).strip() for p, q in pairs]))

    if task.shape == "example":
        found = [value["predictions"][0] for value in predictions.values()]
        return {task.key: share(found, [question for paradigm in paradigms for question in paradigm.questions])}
    names = [FILE_NAMES.get(paradigm.uid, paradigm.uid) for paradigm in paradigms]
    return {
        name: share(predictions[name]["predictions"], paradigm.questions)
        for name, paradigm in zip(names, paradigms, strict=True)
    }


def collate(submission: Submission) -> Json:
    """Put a submission together in its year's form; what is missing is null.

    In 2026 the surprisals too are null unless all checkpoints of the track are there, as the published code has it.
    """
    form, revisions = FORMATS[submission.year], schedule(submission.track)
    collated: Json = dict.fromkeys(form.keys)
    collated |= {task.key: submission.full.get(task.key) for task in form.full}
    collated["glue"] = {}
    for task in form.glue:
        collated["glue"] |= submission.full.get(task.key, {})
    collated[form.surprisals] = submission.surprisals
    if form.optional and submission.surprisals is not None:
        steps = {row["step"] for row in submission.surprisals["results"]}
        if steps != set(revisions):
            collated[form.surprisals] = None
            console.print(
                f"age of acquisition: {len(steps)} of {len(revisions)} checkpoints, so its surprisals are null"
            )
    if form.optional and submission.age_of_acquisition is not None:
        collated["aoa"] = {"aoa": submission.age_of_acquisition}
    # 2026 fills up with nulls. 2025 takes no less than all; what is written all the same ends where training ended.
    fast = [submission.fast.get(name, {}) for name in revisions if form.optional or name in submission.fast]
    collated["fast_eval_results"] = {
        task.key: [dict(found[task.key].scores) if task.key in found else None for found in fast] for task in form.fast
    }
    return collated


def as_published(rows: Sequence[Json]) -> list[Json]:
    """Write missing numbers of words as the published code does: NaN, which Python's JSON reads, not null."""
    return [{key: math.nan if value is None else value for key, value in row.items()} for row in rows]


def measured_predictions(result: MeasuredResult) -> Json:
    """Turn what was measured on reading times or made-up words (WUG) into predictions, by the sub-tasks' own names."""
    found = {}
    for file_name, value in result.predictions.items():
        name = FILE_NAMES.get(file_name, file_name)
        rows = as_published(value["predictions"])
        if name != file_name:
            rows = [row | {"id": f"{name}_{index}"} for index, row in enumerate(rows)]
        found[name] = {"predictions": rows}
    return found


def measured_scores(task: SubmissionTask, result: MeasuredResult) -> dict[str, float]:
    """Return what is collated of a checkpoint's reading times (shares of variance) or made-up words (a correlation).

    What could not be measured is NaN, as in the published code.
    """

    def number(name: str, unit: float = 1.0) -> float:
        value = result.values[name].value
        return math.nan if value is None else value / unit

    if task.shape == "reading":
        return {"spr": number("self_paced_reading", 100), "rt": number("eye_tracking", 100)}
    return {task.key: number(result.headline)}


def write_submission(submission: Submission, results: Path, incomplete: bool = False) -> Path:
    """Write all files of a submission into `<results>/<model>/`, whole or not at all; return the collated one.

    They are looked through where they are built, before they take the place of an earlier submission. `incomplete`
    allows missing tasks and checkpoints also in 2025, whose own code stops at them; they are left out.

    Raises:
        UserError: a name that the published code would cut, an unknown task or revision, tasks that are missing where
            they may not, predictions of a wrong size or shape (with every fault), or a folder that holds other files.
            Nothing is written then.
    """
    form = FORMATS[submission.year]
    _check_names(submission, form)
    _check_checkpoints(submission, form)
    collated = collate(submission)
    if not form.optional:
        collated = {key: value for key, value in collated.items() if value is not None}
    base, whole = results / submission.model, collated_file(submission.backend)
    _check_place(base)
    with new_folder(base) as building:
        for path, value in (_files(submission, form) | {whole: collated}).items():
            (building / path).parent.mkdir(parents=True, exist_ok=True)
            (building / path).write_text(json.dumps(value), encoding="utf-8")
        _refuse(validate_submission(building, form.year, submission.track), form, incomplete)
    return base / whole


def _refuse(faults: Sequence[Fault], form: SubmissionFormat, incomplete: bool) -> None:
    """Refuse faults that the year's code does not take, but for what may be missing."""
    if faults := [fault for fault in faults if not (fault.allowed or (fault.missing and incomplete))]:
        shown = "\n".join(f"  {fault}" for fault in faults[:20])
        more = f"\n  and {len(faults) - 20} more" if len(faults) > 20 else ""
        remedy = "; what is missing is left out with incomplete=True" if any(f.missing for f in faults) else ""
        raise UserError(f"this is no submission of BabyLM {form.year} yet{remedy}:\n{shown}{more}")


def _check_place(base: Path) -> None:
    """Refuse to replace what is no earlier submission."""
    names = ("predictions.json", "surprisal.json", "aoa_score.json")
    for path in sorted(base.rglob("*")):
        if path.is_file() and path.name not in names and not (path.parent == base and path.match(collated_file("*"))):
            name = path.relative_to(base)
            raise UserError(f"{base} holds {name}, which is no result file of ours; name another place")


def _files(submission: Submission, form: SubmissionFormat) -> dict[str, Any]:
    """Return every file of predictions by its path below the model's folder."""
    age = submission.age_of_acquisition
    # In 2025 the surprisals themselves have the key `aoa`.
    values = {**submission.full, "aoa": None if age is None else {"aoa": age}, form.surprisals: submission.surprisals}
    return final_files(form, submission.backend, values) | {
        prediction_file(name, submission.backend, task): by_task[task.key].predictions
        for name, by_task in submission.fast.items()
        for task in form.fast
        if task.key in by_task
    }


def _check_checkpoints(submission: Submission, form: SubmissionFormat) -> None:
    """Refuse checkpoints of other names and, where the collated file counts them only, gaps between them."""
    revisions, fast = schedule(submission.track), [task.key for task in form.fast]
    for name, by_task in submission.fast.items():
        if name not in revisions:
            raise UserError(f"'{name}' is no checkpoint of the track {submission.track}: {', '.join(revisions)}")
        for key in by_task:
            if key not in fast:
                raise UserError(f"BabyLM {form.year} has no fast task '{key}' (tasks: {', '.join(fast)})")
    gaps = [name for name in revisions[: len(submission.fast)] if name not in submission.fast]
    if gaps and not form.optional:
        raise UserError(f"checkpoints are missing in between: {', '.join(gaps)}; BabyLM {form.year} tells them by "
                        "their place in a list, so score these too")  # fmt: skip


def _check_names(submission: Submission, form: SubmissionFormat) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", submission.model):
        raise UserError(f"'{submission.model}' cannot name a submission: the published code cuts names at a point or "
                        "slash; use letters, digits, '_' and '-'")  # fmt: skip
    known = [task.key for task in (*form.full, *form.glue)]
    for key in submission.full:
        if key not in known:
            raise UserError(f"BabyLM {form.year} has no task '{key}'{nearest(key, known)} (tasks: {', '.join(known)})")
