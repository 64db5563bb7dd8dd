"""Look through a submission and tell every fault with its place.

Held against the format are names, sizes, order and kinds of values; what a prediction says is held against the options
of the data files where their questions are given. Multimodal benchmarks are not looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tutelage.babylm.format import (
    FORMATS,
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
from tutelage.recipe.words import read_words

MULTIMODAL = ("vqa", "winoground", "devbench")
SURPRISAL_KEYS = ("step", "word_count", "target_word", "context_id", "context", "surprisal")


@dataclass(frozen=True)
class Fault:
    """What is wrong with a submission.

    Attributes:
        place: keys and numbers from the top of the file, or a path.
        message: what is found there, and what should be.
        missing: whether a benchmark or checkpoint is not there at all.
        allowed: whether the published code takes it: as it is, or with nothing for this benchmark.
    """

    place: str
    message: str
    missing: bool = False
    allowed: bool = False

    def __str__(self) -> str:
        """Write it on a line."""
        # Names may hold what no terminal can write.
        return f"{self.place}: {self.message}".encode("utf-8", "backslashreplace").decode()


Options = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""By task and sub-task, what each item's prediction may say, in the order of the data files."""


def check_collated(
    collated: Any, form: SubmissionFormat, track: TrackName, options: Options | None = None
) -> list[Fault]:
    """Look through a collated file.

    Args:
        collated: its content.
        form: of its year.
        track: decides which checkpoints there are.
        options: what predictions may say, for the tasks of the final model; not looked at where missing.
    """
    if not isinstance(collated, dict):
        return [Fault("the file", "is no JSON object of benchmarks")]
    faults = [
        Fault(key, f"BabyLM {form.year} has no such key{nearest(key, form.keys)}")
        for key in collated
        if key not in form.keys and key not in MULTIMODAL
    ]
    for task in form.full:
        faults += _present(collated, task.key, form, partial(check_task, task=task, options=options))
    faults += _present(collated, "glue", form, lambda value: _check_glue(value, form))
    faults += _present(
        collated, form.surprisals, form, lambda value: list(_check_surprisals(value, form, schedule(track)))
    )
    if form.optional:
        faults += _present(collated, "aoa", form, _check_score)
    faults += _present(
        collated, "fast_eval_results", form, lambda value: list(_check_fast(value, form, schedule(track)))
    )
    return faults


def _present(
    collated: Mapping[str, Any], key: str, form: SubmissionFormat, look: Callable[[Any], list[Fault]]
) -> list[Fault]:
    value = collated.get(key)
    if value is None:
        return [Fault(key, "is missing", missing=True, allowed=form.optional and key in collated)]
    return look(value)


def check_task(value: Any, task: SubmissionTask, options: Options | None = None) -> list[Fault]:
    """Look through the predictions of one task, as in its `predictions.json`."""
    if not isinstance(value, dict):
        return [Fault(task.key, "is no JSON object of sub-tasks")]
    if task.shape == "example":
        return list(_check_examples(value, task, options))
    faults = [
        Fault(f"{task.key}.{name}", f"is no sub-task of it{nearest(name, task.sizes)}")
        for name in value
        if name not in task.sizes
    ]
    for name, size in task.sizes.items():
        place = f"{task.key}.{name}" if name != task.key else task.key
        if name not in value:
            faults.append(Fault(place, "is missing"))
            continue
        rows, found = _rows(value[name], place)
        faults += found
        if rows is None:
            continue
        if len(rows) != size:
            faults.append(Fault(place, f"has {len(rows)} predictions, the data file {size} lines"))
        texts = (options or {}).get(task.key, {}).get(name)
        for index, row in enumerate(rows):
            expected = index if task.shape == "reading" else f"{name}_{index}"
            known = texts[index] if texts is not None and index < len(texts) else None
            faults += _check_row(row, f"{place}[{index}]", expected, task, known)
    return faults


def _rows(value: Any, place: str) -> tuple[list[Any] | None, list[Fault]]:
    rows = value.get("predictions") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        return None, [Fault(place, 'is no {"predictions": [...]}')]
    extra = [key for key in value if key != "predictions"]
    return rows, [Fault(place, f"has further keys: {', '.join(extra)}")] if extra else []


def _check_row(
    row: Any, place: str, expected: Any, task: SubmissionTask, known: Sequence[str] | None
) -> Iterator[Fault]:
    keys = {"probability": {"id", "pred", "prob"}, "reading": {"id", "pred", "prev_pred"}}.get(
        task.shape, {"id", "pred"}
    )
    if not isinstance(row, dict) or row.keys() != keys:
        yield Fault(place, f"is no object with the keys {', '.join(sorted(keys))}")
        return
    if row["id"] != expected or isinstance(row["id"], bool):
        yield Fault(f"{place}.id", f"is {_shown(row['id'])}, its place asks for {expected!r}")
    pred = row["pred"]
    if task.shape == "label":
        if isinstance(pred, bool) or not isinstance(pred, int) or not 0 <= pred < task.classes:
            yield Fault(f"{place}.pred", f"is {_shown(pred)}, not a class from 0 to {task.classes - 1}")
        return
    if task.shape == "reading":
        if not _number(pred) or pred < 0:
            yield Fault(f"{place}.pred", f"is {_shown(pred)}, not a surprisal of at least 0")
        before = row["prev_pred"]
        if before is not None and not _nan(before) and (not _number(before) or before < 0):
            yield Fault(f"{place}.prev_pred", f"is {_shown(before)}, neither a surprisal of at least 0 nor NaN")
        return
    if not isinstance(pred, str) or not pred.strip():
        yield Fault(f"{place}.pred", f"is {_shown(pred)}, not the text of an option")
    elif known is not None and pred.strip() not in {text.strip() for text in known}:
        yield Fault(f"{place}.pred", f"is {_shown(pred)}, none of the options that stand there in the data file")
    if task.shape == "probability" and not (_number(row["prob"]) and 0 <= row["prob"] <= 1):
        yield Fault(f"{place}.prob", f"is {_shown(row['prob'])}, not a probability")


def _check_examples(value: Mapping[str, Any], task: SubmissionTask, options: Options | None) -> Iterator[Fault]:
    texts = (options or {}).get(task.key, {})
    if len(value) != task.sizes[""]:
        yield Fault(task.key, f"has {len(value)} examples, the data file {task.sizes['']} lines")
    for name in texts:
        if name not in value:
            yield Fault(f"{task.key}.{name}", "is missing")
    for name, inner in value.items():
        place = f"{task.key}.{name}"
        rows, faults = _rows(inner, place)
        yield from faults
        if rows is not None and len(rows) != 1:
            yield Fault(place, f"has {len(rows)} predictions, not one")
        known = texts.get(name)
        for index, row in enumerate(rows or []):
            yield from _check_row(row, f"{place}[{index}]", f"{name}_{index}", task, known[0] if known else None)


def _check_glue(value: Any, form: SubmissionFormat) -> list[Fault]:
    if not isinstance(value, dict):
        return [Fault("glue", "is no JSON object of tasks")]
    known = [task.key for task in form.glue]
    faults = [Fault(f"glue.{name}", f"is no task of it{nearest(name, known)}") for name in value if name not in known]
    for task in form.glue:
        if task.key not in value:
            faults.append(Fault(f"glue.{task.key}", "is missing", missing=True, allowed=form.optional))
            continue
        found = check_task({task.key: value[task.key]}, task)
        faults += [Fault(f"glue.{fault.place}", fault.message, fault.missing, fault.allowed) for fault in found]
    return faults


def _check_surprisals(value: Any, form: SubmissionFormat, revisions: Sequence[str]) -> Iterator[Fault]:
    key = form.surprisals
    rows = value.get("results") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        yield Fault(key, 'is no {"metadata": ..., "results": [...]}')
        return
    if not isinstance(value.get("metadata"), dict):
        yield Fault(f"{key}.metadata", "is no JSON object")
    by_step: dict[str, list[str]] = {}
    unknown: dict[str, int] = {}
    for index, row in enumerate(rows):
        place = f"{key}.results[{index}]"
        if not isinstance(row, dict) or row.keys() != set(SURPRISAL_KEYS):
            yield Fault(place, f"is no object with the keys {', '.join(SURPRISAL_KEYS)}")
            continue
        step = row["step"]
        if not isinstance(step, str):
            yield Fault(f"{place}.step", f"is {_shown(step)}, not the name of a checkpoint")
            continue
        by_step.setdefault(step, []).append(f"{row['target_word']!r} {row['context_id']!r}")
        if step in revisions and row["word_count"] != read_words(step.removeprefix("chck_")):
            yield Fault(f"{place}.word_count", f"is {_shown(row['word_count'])}, the checkpoint is {step}")
        if _nan(row["surprisal"]):
            unknown[step] = unknown.get(step, 0) + 1
        elif not _number(row["surprisal"]):
            yield Fault(f"{place}.surprisal", f"is {_shown(row['surprisal'])}, neither a finite number nor NaN")
    for step, count in unknown.items():
        yield Fault(key, f"has {count} surprisals for {step} that are NaN", allowed=True)
    for step in by_step:
        if step not in revisions:
            yield Fault(key, f"has a step {_shown(step)}, which is no checkpoint of this track")
    for step in revisions:
        if step not in by_step:
            # In 2026 surprisals of too few checkpoints are null.
            yield Fault(key, f"has nothing for {step}", missing=not form.optional)
    there = [step for step in revisions if step in by_step]
    for step in there:
        order, first = by_step[step], by_step[there[0]]
        if len(order) != form.words:
            yield Fault(key, f"has {len(order)} surprisals for {step}, the data {form.words} contexts")
        elif order != first:
            same = sorted(order) == sorted(first)
            said = f"has its words for {step} in another order than for {there[0]}"
            yield Fault(key, said if same else f"has other words for {step} than for {there[0]}", allowed=same)


def _check_score(value: Any) -> list[Fault]:
    right = isinstance(value, dict) and value.keys() == {"aoa"} and _number(value["aoa"]) and -1 <= value["aoa"] <= 1
    return [] if right else [Fault("aoa", f'is {_shown(value)}, not {{"aoa": a correlation}}')]


def _check_fast(value: Any, form: SubmissionFormat, revisions: Sequence[str]) -> Iterator[Fault]:
    place = "fast_eval_results"
    if not isinstance(value, dict):
        yield Fault(place, "is no JSON object of tasks")
        return
    known = [task.key for task in form.fast]
    for name in value:
        if name not in known:
            yield Fault(f"{place}.{name}", f"is no fast task{nearest(name, known)}")
    for task in form.fast:
        found = value.get(task.key)
        if not isinstance(found, list):
            yield Fault(f"{place}.{task.key}", "is missing: a list of scores, one for each checkpoint", missing=True)
            continue
        if len(found) != len(revisions):
            said = f"has {len(found)} entries, there are {len(revisions)} checkpoints"
            # 2026 fills its lists with nulls.
            missing = len(found) < len(revisions) and not form.optional
            yield Fault(f"{place}.{task.key}", said, missing=missing)
        for name, scores in zip(revisions, found, strict=False):
            yield from _check_scores(scores, f"{place}.{task.key}.{name}", task, form)


def _check_scores(scores: Any, place: str, task: SubmissionTask, form: SubmissionFormat) -> Iterator[Fault]:
    if scores is None:
        yield Fault(place, "is missing", missing=True, allowed=form.optional)
        return
    names = {"reading": {"spr", "rt"}, "example": {task.key}}.get(task.shape, set(task.sizes))
    if not isinstance(scores, dict) or scores.keys() != names:
        yield Fault(place, f"is no object with the keys {', '.join(sorted(names))[:200]}")
        return
    measured = task.shape in ("reading", "probability")
    low = -1 if measured else 0
    for name, score in scores.items():
        if measured and _nan(score):
            # A correlation that does not exist; the published code writes it so.
            continue
        if not _number(score) or not low <= score <= 1:
            yield Fault(f"{place}.{name}", f"is {_shown(score)}, not a fraction from {low} to 1")


def _number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: Any) -> str:
    """Write a value as Python does, the beginning of a long one."""
    written = repr(value)
    return written if len(written) <= 80 else f"{written[:80]}..."


def validate_submission(
    path: Path, year: Year, track: TrackName | None = None, options: Options | None = None
) -> list[Fault]:
    """Look through a submission of 2025 or 2026.

    Args:
        path: a collated file, or a model's folder of results with all its files.
        year: whose format.
        track: which checkpoints are asked for; told by their number unless given.
        options: what predictions may say, by task and sub-task; see `check_collated`.

    Returns:
        Every fault; of a missing benchmark that the year's own code takes, with `allowed`.

    Raises:
        UserError: an unknown year, or nothing at `path`.
    """
    if year not in FORMATS:
        raise UserError(f"no format of year '{year}' is known here (known: {', '.join(FORMATS)})")
    form = FORMATS[year]
    if path.is_dir():
        files = sorted(path.glob(collated_file("*")))
        if not files:
            return [Fault(str(path), f"has no {collated_file('<backend>')}", missing=True)]
        return [fault for file in files for fault in _check_folder(path, file, form, track, options)]
    if not path.is_file():
        raise UserError(f"there is no {path}; name a collated file, or a model's folder of results")
    collated, faults = _read(path, path.name)
    return faults or check_collated(collated, form, track or _track(collated, form), options)


def _read(file: Path, place: str) -> tuple[Any, list[Fault]]:
    try:
        return json.loads(file.read_text(encoding="utf-8")), []
    except (ValueError, OSError, RecursionError) as error:
        return None, [Fault(place, f"cannot be read as JSON ({error})")]


def _track(collated: Any, form: SubmissionFormat) -> TrackName:
    """Tell the track by how many checkpoints there are; of those that ask for the same, one stands for all."""
    small = len(schedule("strict-small"))
    if not isinstance(collated, dict):
        return "strict-small"
    surprisals, fast = collated.get(form.surprisals), collated.get("fast_eval_results")
    rows = surprisals.get("results") if isinstance(surprisals, dict) else None
    steps = {str(row.get("step")) for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()
    lists = fast.values() if isinstance(fast, dict) else []
    longest = max((len(value) for value in lists if isinstance(value, list)), default=0)
    return "strict" if max(len(steps), longest) > small else "strict-small"


def _check_folder(
    folder: Path, file: Path, form: SubmissionFormat, track: TrackName | None, options: Options | None
) -> Iterator[Fault]:
    """Look through a collated file, then through the files it was put together from."""
    collated, faults = _read(file, file.name)
    yield from faults
    if not isinstance(collated, dict):
        yield from check_collated(collated, form, "strict-small") if not faults else ()
        return
    track = track or _track(collated, form)
    yield from check_collated(collated, form, track, options)
    backend = file.stem.removeprefix(Path(collated_file("")).stem)
    glue = collated.get("glue")
    tuned = {name: {name: value} for name, value in glue.items()} if isinstance(glue, dict) else {}
    for place, value in final_files(form, backend, tuned | collated).items():
        found, faults = _read(folder / place, place)
        yield from faults
        # As text: NaN equals NaN.
        if not faults and json.dumps(found) != json.dumps(value):
            yield Fault(place, f"differs from what {file.name} says")
    fast = collated.get("fast_eval_results")
    for task in form.fast:
        listed = fast.get(task.key) if isinstance(fast, dict) else None
        for name, scores in zip(schedule(track), listed if isinstance(listed, list) else [], strict=False):
            if scores is None:
                continue
            place = prediction_file(name, backend, task)
            found, faults = _read(folder / place, place)
            yield from faults
            if not faults:
                yield from (Fault(f"{place}: {f.place}", f.message, f.missing) for f in check_task(found, task))
