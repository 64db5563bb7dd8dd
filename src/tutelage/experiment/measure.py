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
    """Return an evaluation's score: the one in the folder, if `of`, all that decides it, is the same, or a new one.

    `context` is given a folder for results of parts, which survive a stop.
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
    headline = score["headline"]
    value = score["values"][headline]
    if value["value"] is None:
        return f"{headline}: {value['note']}"
    shown = UNITS[value["unit"]]
    return f"{headline} {value['value'] * shown.scale:.{shown.finer}f} {shown.sign}".strip()
