"""What kept scores say in the form of BabyLM's result files: the predictions of a task, held against its score.

Shapes: N items.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tutelage.babylm.format import SubmissionTask
from tutelage.babylm.write import Fast, accuracies, measured_predictions, measured_scores, suite_predictions
from tutelage.base.errors import UserError
from tutelage.base.files import read_json
from tutelage.base.types import Json
from tutelage.evaluation.benchmarks.results import MeasuredResult
from tutelage.evaluation.finetune.metrics import METRICS
from tutelage.evaluation.finetune.tasks import find_task, read_scored
from tutelage.evaluation.named import NamedEvaluation, file_name, load_arrays
from tutelage.evaluation.psychometrics.trajectory import WordSurprisal
from tutelage.evaluation.suites.questions import Paradigm
from tutelage.evaluation.suites.suites import Suite
from tutelage.recipe import Evaluation


def task_results(task: SubmissionTask, found: NamedEvaluation, folder: Path, score: Json, settings: Evaluation) -> Fast:
    """Return a task's predictions, and the scores that are collated of them where it is a fast one.

    `score` is what is kept in the folder, from `read_score`, by what measured it and its settings.

    Raises:
        UserError: what lies beside the score is missing, broken, or says something else than the score.
    """
    if found.suite is not None and found.suite.ratios is None:
        return _of_suite(task, found.suite, folder, score)
    predictions = read_json(_beside(folder, found.name, "predictions.json"))
    if task.shape == "label":
        _check_labels(task, predictions, folder, score, found.name, settings)
        return Fast({task.key: predictions[task.key]}, {})
    result = MeasuredResult.from_json(found.name, score, predictions)
    return Fast(measured_predictions(result), measured_scores(task, result))


def example_ids(paradigms: tuple[Paradigm, ...]) -> list[str] | None:
    """Return the names that a benchmark gives its items; None where it gives none."""
    names = [question.name for paradigm in paradigms for question in paradigm.questions]
    return None if None in names else [str(name) for name in names]


def surprisal_rows(folder: Path, steps: Sequence[str]) -> list[WordSurprisal]:
    """Return the entries of an age of acquisition's `surprisal.json`, of some checkpoints only."""
    kept = read_json(_beside(folder, "aoa", "predictions.json"))
    return [row for row in kept["results"] if row["step"] in steps]


def _of_suite(task: SubmissionTask, suite: Suite, folder: Path, score: Json) -> Fast:
    kept, chosen = load_arrays(_beside(folder, suite.name, "chosen.npz")), {}
    for paradigm in suite.paradigms:
        chosen_N, known = kept.get(f"{suite.name}/{paradigm.uid}"), score["paradigms"].get(paradigm.uid)
        options_N = np.array([len(question.options) for question in paradigm.questions])
        if (
            chosen_N is None
            or known is None
            or not len(chosen_N) == len(options_N) == known["n"]
            or not ((chosen_N >= 0) & (chosen_N < options_N)).all()
            or float(np.mean(chosen_N == 0)) != known["accuracy"]
        ):
            raise _differs(folder, suite.name, f"the options chosen of '{paradigm.uid}'")
        chosen[paradigm.uid] = chosen_N
    predictions = suite_predictions(task, suite.paradigms, chosen, example_ids(suite.paradigms))
    return Fast(predictions, accuracies(task, suite.paradigms, predictions))


def _check_labels(
    task: SubmissionTask, predictions: Any, folder: Path, score: Json, name: str, settings: Evaluation
) -> None:
    """Hold class numbers against the score; of several fine-tunings it is a mean, and the first one's are kept."""
    rows = predictions.get(task.key, {}).get("predictions", [])
    known = find_task(task.key)
    labels = np.array([example.label for example in read_scored(task.key)])
    if len(rows) != len(labels):
        raise _differs(folder, name, f"the number of rows of '{task.key}'")
    value = score["values"].get(task.key) or score["values"][known.headline]
    found = METRICS[known.headline](labels, np.array([row["pred"] for row in rows]))
    if len(settings.finetune.seed_list) == 1 and abs(found - value["value"]) > 1e-9:
        raise _differs(folder, name, f"the labels of '{task.key}'")


def _beside(folder: Path, name: str, kind: str) -> Path:
    path = folder / f"{file_name(name)}.{kind}"
    if not path.is_file():
        raise UserError(f"{path} is missing, which belongs to the score beside it; delete {file_name(name)}.json there "
                        "and evaluate again")  # fmt: skip
    return path


def _differs(folder: Path, name: str, what: str) -> UserError:
    file = f"{file_name(name)}.json"
    return UserError(f"{folder}: {what} are not those of the score in {file}; delete that file and evaluate again")
