"""WUG: do models inflect made-up words as people do? Past tense (50 words) and nouns from adjectives (200).

A line has alternatives, separated by tabs, of which the first is the one whose share among people `ratio` is. A model's
share of it is its probability in a softmax over the sums of log-probabilities of all alternatives: two for adjectives
(`-ity`, `-ness`), three for the past tense. The score is Spearman's rho between the model's shares and people's
(`decode_wug_tasks`, `rank_and_evaluate_wug` of github.com/babylm/evaluation-pipeline-2025). Until August 2025 it was,
for adjectives, an accuracy: the share of words of which the model prefers the first alternative, whatever people said;
`agreement` is the share of words of which it prefers what most people prefer: the first alternative, or another (of
three alternatives the most likely one may have less than half). In 2026 the task was removed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources.abc import Traversable

import numpy as np
from scipy.special import softmax
from scipy.stats import spearmanr

from tutelage.base.errors import UserError
from tutelage.base.types import Floats
from tutelage.evaluation.benchmarks.conventions import Convention, choose
from tutelage.evaluation.benchmarks.items import Item
from tutelage.evaluation.benchmarks.reading import json_lines
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.suites.questions import Paradigm, Question, json_files, number, text


def read_wug(folder: Traversable) -> tuple[Paradigm, Floats]:
    """Read one of the two files: its questions, and people's shares of each first alternative, `(N,)`.

    Raises:
        UserError: a broken line, fewer than two alternatives, or a ratio outside 0 to 1; with file and line.
    """
    questions, ratios = [], []
    files = json_files(folder, "WUG (sentences, ratio)")
    for file in files:
        for where, row in json_lines(file, ("sentences", "ratio")):
            sentences = text(row, "sentences", where).split("\t")
            if len(sentences) < 2 or not all(sentences):
                raise UserError(f"{where}: 'sentences' has no two alternatives separated by a tab")
            ratio = number(row, "ratio", where)
            if not 0 <= ratio <= 1:
                raise UserError(f"{where}: 'ratio' is {ratio}, not a share from 0 to 1")
            questions.append(Question(tuple(Item(sentence) for sentence in sentences)))
            ratios.append(ratio)
    return Paradigm(files[0].name.removesuffix(".jsonl"), tuple(questions)), np.array(ratios)


def correlated(name: str, paradigm: Paradigm, ratios_N: Floats, scores_NK: Floats,
               convention: Convention) -> MeasuredResult:  # fmt: skip
    """Compare a model's shares of each first alternative with people's, `ratios_N`.

    `scores_NK` are log-probabilities in nats; minus infinity where a question has fewer than K alternatives.
    """
    shares_N: Floats = softmax(scores_NK, axis=1)[:, 0]
    questions = paradigm.questions
    options_N = np.array([len(question.options) for question in questions])
    chosen_N = choose(scores_NK, convention, [question.key for question in questions], options_N)
    first_N, decided_N = chosen_N == 0, ratios_N != 0.5
    agreement = float(np.mean(first_N == (ratios_N > 0.5), where=decided_N)) if decided_N.any() else None
    old = "prefers the first alternative: the old score"
    note = "prefers what most people prefer, the first or another; without words on which people are even"
    values: Mapping[str, MeasuredValue] = {
        "spearman": _spearman(shares_N, ratios_N),
        "accuracy": MeasuredValue(float(np.mean(first_N)), "accuracy", n=len(ratios_N), note=old),
        "agreement": MeasuredValue(agreement, "accuracy", n=int(decided_N.sum()), note=note),
    }
    answers = zip(questions, chosen_N.tolist(), shares_N.tolist(), strict=True)
    said = [
        {"id": f"{paradigm.uid}_{index}", "pred": question.options[choice].completion, "prob": share}
        for index, (question, choice, share) in enumerate(answers)
    ]
    return MeasuredResult(name, convention.name, "spearman", values, {paradigm.uid: {"predictions": said}})


def _spearman(shares_N: Floats, ratios_N: Floats) -> MeasuredValue:
    count = len(ratios_N)
    if not np.isfinite(shares_N).all():
        return MeasuredValue(None, "correlation", n=count, note="the model's probabilities are not numbers")
    if len(np.unique(shares_N)) < 2 or len(np.unique(ratios_N)) < 2:
        return MeasuredValue(None, "correlation", n=count, note="no correlation: all shares are the same")
    rho = float(spearmanr(shares_N, ratios_N).statistic)
    return MeasuredValue(rho, "correlation", n=count)
