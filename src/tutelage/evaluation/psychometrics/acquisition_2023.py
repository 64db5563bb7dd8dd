"""Age of acquisition as BabyLM's optional task of 2023: months by which a linear model misses children's ages.

github.com/babylm/evaluation-pipeline-2023, `lm_eval/tasks/aoa_pred.py`, after Portelance, Duan, Frank and Lupyan (2023,
Cognitive Science 47, e13334). A word's age is predicted from its lexical category, concreteness, frequency and mean
surprisal; each word from a model fitted to all others; the score is the mean absolute deviation in months. All
baselines of 2023 score 2.03 to 2.06 on 591 words, so that `aoa_without_surprisal` is told beside it.

Not reproduced: the published code reads a causal model's surprisal of a token at the token's own position, which is
what the model thinks of the *next* one, and shows masked models the word they are asked for. Surprisals here are those
of `checkpoint_surprisals`: the word given what stands before it.

Shapes: N words, P predictors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tutelage.base.errors import UserError
from tutelage.base.types import Bools, Floats
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.psychometrics.acquisition_data import Predictors
from tutelage.evaluation.psychometrics.tables import linear_models


def mean_surprisals(results: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return each word's mean over its contexts, in nats, from the entries of one checkpoint."""
    found: dict[str, list[float]] = {}
    for entry in results:
        found.setdefault(str(entry["target_word"]), []).append(float(entry["surprisal"]))
    return {word: float(np.mean(values)) for word, values in found.items()}


def evaluate_acquisition_2023(
    surprisals: Mapping[str, float], predictors: Predictors, predictions: Any = None
) -> MeasuredResult:
    """Score a model's mean surprisal by word (nats) as a predictor of children's ages; words without one are left out.

    Returns months, lower is better: `aoa` over all words, `aoa_nouns`, `aoa_predicates`, `aoa_function_words`, and
    `aoa_without_surprisal`; `predictions` are kept with them. Raises a `UserError` where no word of the list has a
    surprisal, or the `statsmodels` library is missing.
    """
    kept = np.array([word in surprisals and np.isfinite(surprisals[word]) for word in predictors.words])
    if not kept.any():
        raise UserError(f"none of the {len(kept)} words with predictors has a surprisal: do the words agree?")
    surprisal = np.array([surprisals[word] for word, there in zip(predictors.words, kept, strict=True) if there])
    category = np.array(predictors.categories)[kept]
    unigram = predictors.unigram[kept]
    if not predictors.scaled:
        unigram = -np.log(unigram / unigram.sum())
    age = predictors.ages[kept]
    groups = [category == name for name in ("function_words", "predicates")]
    flags = [flag.astype(np.float64) for flag in groups if flag.any()]
    numbers = [predictors.concreteness[kept], _residuals(surprisal, unigram), unigram]
    missed = left_out_deviations(age, _columns(flags, numbers))
    without = left_out_deviations(age, _columns(flags, [numbers[0], numbers[2]]))
    lost = int((~kept).sum())
    note = f"{lost} words without surprisal are left out" if lost else ""
    values = {"aoa": _months(missed, np.ones(len(age), dtype=np.bool_), note)}
    for name in ("nouns", "predicates", "function_words"):
        if (category == name).any():
            values[f"aoa_{name}"] = _months(missed, category == name)
    values["aoa_without_surprisal"] = _months(without, np.ones(len(age), dtype=np.bool_))
    return MeasuredResult("aoa", "2023", "aoa", values, predictions)


def _months(missed: Floats | None, members: Bools, note: str = "") -> MeasuredValue:
    n = int(members.sum())
    if missed is None:
        reason = f"{n} words are too few, or one of them alone decides a coefficient: it cannot be left out"
        return MeasuredValue(None, "months", "lower", n, reason)
    return MeasuredValue(float(missed[members].mean()), "months", "lower", n, note)


def _residuals(surprisal: Floats, unigram: Floats) -> Floats:
    """What a word's frequency does not tell of its surprisal."""
    api = linear_models()
    residuals: Floats = api.OLS(surprisal, api.add_constant(unigram, has_constant="add")).fit().resid
    return residuals


def _columns(flags: list[Floats], numbers: list[Floats]) -> Floats:
    """Predictors of the published model, `(N, P)`: a constant, categories, standardised numbers, and their products.

    Standardised over all words, the left-out one included, as published. A number that is the same for all words (the
    residual of a constant surprisal is, but for rounding) tells nothing and is left out.
    """
    telling = [values for values in numbers if values.std() > 1e-12 * max(1.0, float(np.abs(values).max()))]
    scaled = [(values - values.mean()) / values.std() for values in telling]
    products = [flag * values for flag in flags for values in scaled]
    return np.column_stack([np.ones(len(numbers[0])), *flags, *scaled, *products])


def left_out_deviations(age: Floats, X_NP: Floats) -> Floats | None:
    """Return by how many months each word is missed by a model fitted to all others, `(N,)`.

    Of least squares that is its residual over one minus its leverage, without fitting N models. None where the words do
    not determine the model, or one of them has leverage 1: no other word tells of its coefficient.
    """
    if len(age) <= X_NP.shape[1] or np.linalg.matrix_rank(X_NP) < X_NP.shape[1]:
        return None
    influence = linear_models().OLS(age, X_NP).fit().get_influence()
    if (np.asarray(influence.hat_matrix_diag) > 1 - 1e-9).any():
        return None
    return np.abs(np.asarray(influence.resid_press, dtype=np.float64))
