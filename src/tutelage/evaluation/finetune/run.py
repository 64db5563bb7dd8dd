"""Fine-tune a model, or several as one, on a task, and score what it says of the task's scored file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.progress import console
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.finetune.classifier import build
from tutelage.evaluation.finetune.loop import Fitted, Reading, fit, predict
from tutelage.evaluation.finetune.metrics import METRICS, Metric, accuracy
from tutelage.evaluation.finetune.rows import TextRows, encode, split, subset
from tutelage.evaluation.finetune.tasks import FinetuningTask, averaged, find_task, read_scored, read_train
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.finetune import FinetuneRules, Finetuning, TaskFinetuning


@dataclass(frozen=True)
class _Work:
    """What one training needs, whatever settings are tried on it."""

    models: Sequence[LanguageModel]
    tokenizer: PreTrainedTokenizerFast
    task: FinetuningTask
    train: TextRows
    chooser: TextRows
    metric: Metric
    reading: Reading
    seed: int


def finetune(models: Sequence[LanguageModel], tokenizer: PreTrainedTokenizerFast, task: str, settings: Finetuning,
             seed: int, folder: Path | None = None, label: str = "") -> MeasuredResult:  # fmt: skip
    """Fine-tune on one task and score it; see `finetune_together`."""
    return finetune_together(models, tokenizer, (task,), settings, seed, folder, label)[task]


def finetune_together(
    models: Sequence[LanguageModel],
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[str],
    settings: Finetuning,
    seed: int,
    folder: Path | None = None,
    label: str = "",
) -> dict[str, MeasuredResult]:
    """Fine-tune once and score every task that this training serves: `mnli` and `mnli-mm`, or any single task.

    Several models are fine-tuned as one; they stay as they are.

    Args:
        tasks: a group of `trained_together`.
        seed: of order, classifier and dropout.
        folder: where the files are; the usual places unless given.
        label: who is fine-tuned, for the progress bar.

    Returns:
        For each task its scores (`accuracy`, `f1`, `mcc`; the headline first), `chosen` (the score by which the
        checkpoint was chosen, and where), `majority` (the accuracy of always saying the commonest label), and the
        predictions `[{"id": "rte_0", "pred": 1}, ...]` in the order of the file.

    Raises:
        UserError: files that are missing or broken, or settings that do not suit model or data; before any training.
    """
    machine.set_up()
    trained = find_task(find_task(tasks[0]).trained_as or tasks[0])
    if any((find_task(name).trained_as or name) != trained.name for name in tasks):
        raise UserError(f"tasks {', '.join(tasks)} need a training each")
    chosen = settings.of(trained.name)
    limit = _limit(models, chosen.max_length, trained.name)

    def encoded(name: str, examples: Any, which: str) -> TextRows:
        rows = encode(tokenizer, examples, limit, f"{name}.{which}")
        _check_ids(rows, models, name)
        return rows

    train = subset(encoded(trained.name, read_train(trained.name, folder), "train"), chosen.train_rows)
    scored = {name: encoded(name, read_scored(name, folder), "valid") for name in tasks}
    if chosen.select == "held_out":
        train, chooser = split(train, chosen.held_out_share)
    else:
        name = trained.name
        chooser = scored[name] if name in scored else encoded(name, read_scored(name, folder), "valid")
    if len(np.unique(train.labels_N)) < 2:
        raise UserError(f"{trained.name}: the {len(train)} rows to train on have one label only; raise train_rows")
    called = f"fine-tune {label + ' ' if label else ''}{trained.name}"
    reading = Reading(tokenizer.pad_token_id or 0, limit, machine.precision(chosen.precision), called)
    metric = trained.chosen_by(settings.rules)
    work = _Work(models, tokenizer, trained, train, chooser, metric, reading, seed)
    fitted, chosen, tried = _sweep(work, chosen)
    how = _told(work, fitted, chosen, tried)
    return {
        name: _result(find_task(name), rows, fitted, chosen, reading, settings.rules, metric, how, len(chooser))
        for name, rows in scored.items()
    }


def glue_average(
    results: Mapping[str, MeasuredResult], rules: FinetuneRules, metric: Metric | None = None
) -> MeasuredValue:
    """Return the unweighted mean of the headlines of a year's tasks, from 0 to 1 (Matthews' correlation as it is).

    2023 and 2024 average 11 tasks, later years 7; tasks that were not run are left out and named in the note. With a
    `metric`, its mean instead: of plain accuracies, as in BabyLM 2025's `calculate_results_from_pred.py` and in the
    tables of Kamzela, Lango and Dušek (2025).
    """
    names = averaged(rules)
    values = [results[name].values[metric or results[name].headline].value for name in names if name in results]
    missing = [name for name in names if name not in results]
    note = f"mean of {len(values)} of {len(names)} tasks; without {', '.join(missing)}" if missing else ""
    known = [value for value in values if value is not None]
    return MeasuredValue(float(np.mean(known)) if known else None, "share", n=len(known), note=note)


def _sweep(work: _Work, settings: TaskFinetuning) -> tuple[Fitted, TaskFinetuning, int]:
    """Train once, or once for every setting of a sweep, of which the first best one stays."""
    if settings.sweep is None:
        return _fit(work, settings), settings, 1
    best: tuple[Fitted, TaskFinetuning] | None = None
    axes = {key: values for key in ("lr", "batch_rows", "epochs") if (values := getattr(settings.sweep, key))}
    grid = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    for number, values in enumerate(grid, start=1):
        tried = settings.model_copy(update=values)
        fitted = _fit(work, tried)
        told = ", ".join(f"{key}={value:g}" for key, value in values.items())
        console.print(f"{work.reading.label}, {number} of {len(grid)}: {told}: {work.metric} {fitted.score:.4f} on "
                      f"{len(work.chooser)} held-out rows")  # fmt: skip
        if best is None or fitted.score > best[0].score:
            best = fitted, tried
    assert best is not None
    return *best, len(grid)


def _fit(work: _Work, settings: TaskFinetuning) -> Fitted:
    classifier = build(work.models, work.task.labels, settings, work.tokenizer, work.seed)
    return fit(classifier, work.train, work.chooser, work.metric, settings, work.reading, work.seed)


def _told(work: _Work, fitted: Fitted, settings: TaskFinetuning, tried: int) -> str:
    """Say in a note how the checkpoint was chosen."""
    held_out = f"{len(work.chooser)} rows held out from training"
    where = held_out if settings.select == "held_out" else "the scored file itself: too good"
    note = f"checkpoint of epoch {fitted.epoch:g} of {settings.epochs}, chosen by {work.metric} on {where}"
    if tried > 1:
        note += f"; lr {settings.lr:g}, batch_rows {settings.batch_rows}, epochs {settings.epochs}, best of {tried}"
    if settings.pooling == "first" and any(model.kind == "causal" for model in work.models):
        note += "; `pooling: first` shows a causal model nothing but the first token"
    return note


def _result(task: FinetuningTask, rows: TextRows, fitted: Fitted, settings: TaskFinetuning, reading: Reading,
            rules: FinetuneRules, metric: Metric, how: str, choosing: int) -> MeasuredResult:  # fmt: skip
    """Score a task's rows."""
    predicted_N = predict(fitted.classifier, rows, settings, reading).argmax(1).astype(np.int64)
    note = how + (f"; {rows.cut} texts were cut at {reading.limit} tokens" if rows.cut else "")
    names = sorted(task.metrics, key=lambda name: name != task.headline)
    values: dict[str, MeasuredValue] = {
        name: MeasuredValue(METRICS[name](rows.labels_N, predicted_N), name, n=len(rows), note=note) for name in names
    }
    values["chosen"] = MeasuredValue(fitted.score, metric, n=choosing, note=how)
    most = accuracy(rows.labels_N, np.full_like(rows.labels_N, np.bincount(rows.labels_N).argmax()))
    values["majority"] = MeasuredValue(most, "accuracy", n=len(rows), note="always the commonest label")
    predictions = [{"id": f"{task.name}_{number}", "pred": int(label)} for number, label in enumerate(predicted_N)]
    return MeasuredResult(task.name, rules, task.headline, values, predictions)


def _limit(models: Sequence[LanguageModel], max_length: int, task: str) -> int:
    """Return the longest row: `max_length`, or what the models have positions for."""
    limit = min([max_length, *(places for model in models if (places := model.positions) is not None)])
    if limit < max_length:
        console.print(f"{task}: texts are cut at {limit} tokens, not at max_length={max_length}: the model has no more "
                      "positions")  # fmt: skip
    return limit


def _check_ids(rows: TextRows, models: Sequence[LanguageModel], name: str) -> None:
    largest, known = max(int(row.max()) for row in rows.tokens), min(model.vocab_size for model in models)
    if largest >= known:
        raise UserError(f"{name}: the tokenizer gives id {largest}, a model knows {known} tokens; each model needs the "
                        "tokenizer that it was trained with")  # fmt: skip
