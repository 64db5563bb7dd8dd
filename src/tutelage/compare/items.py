"""Scores of single items: margins kept by the evaluation, read back for the bootstrap over items.

A seed may name an `.npz` file (`suite_items`) with one array for each paradigm under `<suite>/<paradigm>`: the
log-probability of the good sentence minus that of the bad one, in the order of the suite's file.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tutelage.base.errors import UserError
from tutelage.compare.metrics import conventions
from tutelage.compare.statistics import FloatArray
from tutelage.compare.summary import ModelSummary
from tutelage.compare.summary_runs import SeedRun
from tutelage.evaluation.benchmarks.results import SuiteScores


def read_margins(
    a: ModelSummary, b: ModelSummary, seeds: Sequence[str], suite: str, names: Sequence[str], folder: Path | None
) -> Mapping[str, tuple[FloatArray, FloatArray]] | None:
    """Margins of both models by paradigm, each of shape (seeds, items); None where any seed kept none."""
    files = [_items_file(model.seeds[seed], folder) for model in (a, b) for seed in seeds]
    if not names or any(file is None for file in files):
        return None
    loaded = [_load(file, suite, names) for file in files if file is not None]
    result = {}
    for name in names:
        rows = [margins[name] for margins in loaded if name in margins]
        if len(rows) < len(loaded) or not all(len(row) for row in rows):
            return None
        if len({len(row) for row in rows}) > 1:
            counts = ", ".join(str(len(row)) for row in rows)
            raise UserError(
                f"the item margins of {suite}/{name} differ in number ({counts}): the models were scored on "
                "different versions of the suite; evaluate them again on the same one"
            )
        result[name] = (np.stack(rows[: len(seeds)]), np.stack(rows[len(seeds) :]))
    return result


def item_scores(margins: FloatArray, ties: float) -> FloatArray:
    """Score items by their margin: 1 above zero, 0 below, `ties` at zero; a margin that is NaN scores 0."""
    return np.where(margins > 0, 1.0, np.where(margins == 0, ties, 0.0))


def item_differences(margins: tuple[FloatArray, FloatArray], ties: float) -> FloatArray:
    """Score of a minus score of b, item by item."""
    return item_scores(margins[0], ties) - item_scores(margins[1], ties)


def macro_groups(suite: SuiteScores) -> list[list[str]]:
    """Paradigms that the convention pools before it averages: 2023 averaged 12 phenomena, later years 67 paradigms."""
    if suite.convention == "2023" and all(paradigm.phenomenon for paradigm in suite.paradigms.values()):
        groups: dict[str, list[str]] = {}
        for name, paradigm in suite.paradigms.items():
            groups.setdefault(str(paradigm.phenomenon), []).append(name)
        return list(groups.values())
    return [[name] for name in suite.paradigms]


def tie_credit(model: ModelSummary, suite: str) -> float:
    """What a tie is worth on average: the first (correct) sentence won it until 2025; from 2026 a coin decides."""
    return 0.5 if any(convention >= "2026" for convention in conventions(model, suite)) else 1.0


def _items_file(run: SeedRun, folder: Path | None) -> Path | None:
    """The file of a seed's item margins, where it is still there (a published summary comes without)."""
    if run.suite_items is None:
        return None
    path = (folder or Path()) / run.suite_items
    return path if path.is_file() else None


def _load(file: Path, suite: str, names: Sequence[str]) -> dict[str, FloatArray]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            keys = {name: f"{suite}/{name}" for name in names}
            return {name: np.asarray(arrays[key], dtype=np.float64) for name, key in keys.items() if key in arrays}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read the item margins in {file} ({error}); delete it and evaluate again") from error
