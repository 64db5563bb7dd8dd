"""Look through a submission and tell every fault with its place.

Names, sizes, order and kinds of values are held against the format, what a prediction says against the options of the
data files where these are given. Multimodal benchmarks are not looked at.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    """What is wrong with a submission: what is found at a place, and what should be."""

    place: str
    """Keys and numbers from the top of the file, or a path."""
    message: str
    missing: bool = False
    """Whether a benchmark or checkpoint is not there at all."""
    allowed: bool = False
    """Whether the published code takes it: as it is, or with nothing for this benchmark."""

    def __str__(self) -> str:
        """Write it on a line, also names that no terminal can write."""
        return f"{self.place}: {self.message}".encode("utf-8", "backslashreplace").decode()


Options = Mapping[str, Mapping[str, Sequence[Sequence[str]]]]
"""By task and sub-task, what each item's prediction may say, in the order of the data files."""


def check_collated(
    collated: Any, form: SubmissionFormat, track: TrackName, options: Options | None = None
) -> list[Fault]:
    """Look through the content of a collated file, with the checkpoints that a track asks for.

    Predictions are held against `options`, those of the final model only, and where given.
    """
    if not isinstance(collated, dict):
        return [Fault("the file", "is no JSON object of benchmarks")]
    faults = [
        Fault(key, f"BabyLM {form.year} has no such key{nearest(key, form.keys)}")
        for key in collated
        if key not in form.keys and key not in MULTIMODAL
    ]
    checks: dict[str, Callable[[Any], Iterable[Fault]]] = {
        **{task.key: partial(check_task, task=task, options=options) for task in form.full},
        "glue": partial(_check_glue, form=form),
        form.surprisals: partial(_check_surprisals, form=form, revisions=schedule(track)),
        **({"aoa": _check_score} if form.optional else {}),
        "fast_eval_results": partial(_check_fast, form=form, revisions=schedule(track)),
    }
    for key, look in checks.items():
        if (value := collated.get(key)) is None:
            faults.append(Fault(key, "is missing", missing=True, allowed=form.optional and key in collated))
        else:
            faults += look(value)
    return faults


def check_task(value: Any, task: SubmissionTask, options: Options | None = None) -> Iterator[Fault]:
    """Look through the predictions of one task, as in its `predictions.json`."""
    texts = (options or {}).get(task.key, {})
    if not isinstance(value, dict):
        yield Fault(task.key, "is no JSON object of sub-tasks")
    elif task.shape == "example":
        if len(value) != task.sizes[""]:
            yield Fault(task.key, f"has {len(value)} examples, the data file {task.sizes['']} lines")
        yield from (Fault(f"{task.key}.{name}", "is missing") for name in texts if name not in value)
        for name, rows in value.items():
            yield from _check_rows(rows, f"{task.key}.{name}", name, 1, task, texts.get(name, ()))
    else:
        for name in value:
            if name not in task.sizes:
                yield Fault(f"{task.key}.{name}", f"is no sub-task of it{nearest(name, task.sizes)}")
        for name, size in task.sizes.items():
            place = f"{task.key}.{name}" if name != task.key else task.key
            if name in value:
                yield from _check_rows(value[name], place, name, size, task, texts.get(name, ()))
            else:
                yield Fault(place, "is missing")


def _check_rows(
    value: Any, place: str, name: str, size: int, task: SubmissionTask, known: Sequence[Sequence[str]]
) -> Iterator[Fault]:
    rows = value.get("predictions") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        yield Fault(place, 'is no {"predictions": [...]}')
        return
    if extra := [key for key in value if key != "predictions"]:
        yield Fault(place, f"has further keys: {', '.join(extra)}")
    if len(rows) != size:
        asked = "not one" if task.shape == "example" else f"the data file {size} lines"
        yield Fault(place, f"has {len(rows)} predictions, {asked}")
    for index, row in enumerate(rows):
        expected = index if task.shape == "reading" else f"{name}_{index}"
        yield from _check_row(row, f"{place}[{index}]", expected, task, known[index] if index < len(known) else None)


def _check_row(
    row: Any, place: str, expected: Any, task: SubmissionTask, known: Sequence[str] | None
) -> Iterator[Fault]:
    keys = {"id", "pred"} | {"probability": {"prob"}, "reading": {"prev_pred"}}.get(task.shape, set())
    if not isinstance(row, dict) or row.keys() != keys:
        yield Fault(place, f"is no object with the keys {', '.join(sorted(keys))}")
        return
    if row["id"] != expected or isinstance(row["id"], bool):
        yield Fault(f"{place}.id", f"is {_shown(row['id'])}, its place asks for {expected!r}")
    pred, before = row["pred"], row.get("prev_pred")
    if task.shape == "label":
        right = isinstance(pred, int) and _number(pred, 0, task.classes - 1)
        asked = {"pred": (right, f"not a class from 0 to {task.classes - 1}")}
    elif task.shape == "reading":
        asked = {"pred": (_number(pred, 0), "not a surprisal of at least 0")}
        right = before is None or _nan(before) or _number(before, 0)
        asked["prev_pred"] = right, "neither a surprisal of at least 0 nor NaN"
    else:
        asked = {"pred": (isinstance(pred, str) and bool(pred.strip()), "not the text of an option")}
        if asked["pred"][0] and known is not None:
            right = pred.strip() in {text.strip() for text in known}
            asked["pred"] = right, "none of the options that stand there in the data file"
        asked["prob"] = task.shape != "probability" or _number(row["prob"], 0, 1), "not a probability"
    for key, (right, told) in asked.items():
        if not right:
            yield Fault(f"{place}.{key}", f"is {_shown(row[key])}, {told}")


def _check_glue(value: Any, form: SubmissionFormat) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield Fault("glue", "is no JSON object of tasks")
        return
    known = [task.key for task in form.glue]
    yield from (Fault(f"glue.{name}", f"is no task of it{nearest(name, known)}") for name in value if name not in known)
    for task in form.glue:
        if task.key in value:
            found = check_task({task.key: value[task.key]}, task)
            yield from (replace(fault, place=f"glue.{fault.place}") for fault in found)
        else:
            yield Fault(f"glue.{task.key}", "is missing", missing=True, allowed=form.optional)


def _check_surprisals(value: Any, form: SubmissionFormat, revisions: Sequence[str]) -> Iterator[Fault]:
    key = form.surprisals
    rows = value.get("results") if isinstance(value, dict) else None
    if not isinstance(rows, list):
        yield Fault(key, 'is no {"metadata": ..., "results": [...]}')
        return
    if not isinstance(value.get("metadata"), dict):
        yield Fault(f"{key}.metadata", "is no JSON object")
    by_step: defaultdict[str, list[str]] = defaultdict(list)
    unknown: Counter[str] = Counter()
    for index, row in enumerate(rows):
        place = f"{key}.results[{index}]"
        if not isinstance(row, dict) or row.keys() != set(SURPRISAL_KEYS):
            yield Fault(place, f"is no object with the keys {', '.join(SURPRISAL_KEYS)}")
            continue
        step = row["step"]
        if not isinstance(step, str):
            yield Fault(f"{place}.step", f"is {_shown(step)}, not the name of a checkpoint")
            continue
        by_step[step].append(f"{row['target_word']!r} {row['context_id']!r}")
        if step in revisions and row["word_count"] != read_words(step.removeprefix("chck_")):
            yield Fault(f"{place}.word_count", f"is {_shown(row['word_count'])}, the checkpoint is {step}")
        if _nan(row["surprisal"]):
            unknown[step] += 1
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
    right = isinstance(value, dict) and value.keys() == {"aoa"} and _number(value["aoa"], -1, 1)
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
            # 2026 fills its lists with nulls.
            missing = len(found) < len(revisions) and not form.optional
            said = f"has {len(found)} entries, there are {len(revisions)} checkpoints"
            yield Fault(f"{place}.{task.key}", said, missing)
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
        # NaN: a correlation that does not exist; the published code writes it so.
        if not (_number(score, low, 1) or (measured and _nan(score))):
            yield Fault(f"{place}.{name}", f"is {_shown(score)}, not a fraction from {low} to 1")


def _number(value: Any, low: float = -sys.float_info.max, high: float = sys.float_info.max) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _shown(value: Any) -> str:
    """Write a value as Python does, the beginning of a long one."""
    written = repr(value)
    return written if len(written) <= 80 else f"{written[:80]}..."


def validate_submission(
    path: Path, year: Year, track: TrackName | None = None, options: Options | None = None
) -> list[Fault]:
    """Return every fault of a submission of 2025 or 2026; of a missing benchmark that its code takes, with `allowed`.

    Args:
        path: a collated file, or a model's folder of results with all its files.
        track: which checkpoints are asked for; told by their number unless given.
        options: see `check_collated`.

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
        return json.loads(file.read_text(encoding="utf-8-sig")), []
    except (ValueError, OSError, RecursionError) as error:
        return None, [Fault(place, f"cannot be read as JSON ({error})")]


def _track(collated: Any, form: SubmissionFormat) -> TrackName:
    """Tell the track by how many checkpoints there are; of those that ask for the same, one stands for all."""
    if not isinstance(collated, dict):
        return "strict-small"
    surprisals, fast = collated.get(form.surprisals), collated.get("fast_eval_results")
    rows = surprisals.get("results") if isinstance(surprisals, dict) else None
    steps = {str(row.get("step")) for row in rows if isinstance(row, dict)} if isinstance(rows, list) else set()
    lists = fast.values() if isinstance(fast, dict) else []
    longest = max((len(value) for value in lists if isinstance(value, list)), default=0)
    return "strict" if max(len(steps), longest) > len(schedule("strict-small")) else "strict-small"


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
            if scores is not None:
                place = prediction_file(name, backend, task)
                found, faults = _read(folder / place, place)
                yield from faults or (
                    Fault(f"{place}: {f.place}", f.message, f.missing) for f in check_task(found, task)
                )
