"""Measure an evaluation unless its score is there: one way for a recipe's runs, models from outside, submissions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from tutelage.base.files import fingerprint
from tutelage.base.types import Json
from tutelage.compare.metrics import UNITS
from tutelage.evaluation.benchmarks.measurement import Context
from tutelage.evaluation.named import NamedEvaluation, file_name, read_score, write_score


def measured(evaluation: NamedEvaluation, folder: Path, of: Json, context: Callable[[Path], Context]) -> Json:
    """Return an evaluation's score: the one that was kept of the same things, or a new one, which is kept.

    Args:
        evaluation: ready to run.
        folder: of the scores of what is evaluated.
        of: everything that decides the score.
        context: makes what the evaluation may use, given a folder for results of parts, which survive a stop.
    """
    score = read_score(folder, evaluation.name, of)
    if score is None:
        parts = folder / "parts" / f"{file_name(evaluation.name)}-{fingerprint(of)[:16]}"
        given = context(parts)
        score = write_score(folder, evaluation.run(given), evaluation.name, of, given.precision)
        shutil.rmtree(parts, ignore_errors=True)
    return score


def in_words(score: Json) -> str:
    """Write a score's one number that matters, with its unit."""
    if "loss" in score:
        return f"loss {score['loss']:.4f}"
    if "values" not in score:
        return f"{100 * score['accuracy']:.2f} %"
    value = score["values"][score["headline"]]
    shown = UNITS[value["unit"]]
    if value["value"] is None:
        return f"{score['headline']}: {value['note']}"
    return f"{score['headline']} {value['value'] * shown.scale:.{shown.finer}f} {shown.sign}".strip()
