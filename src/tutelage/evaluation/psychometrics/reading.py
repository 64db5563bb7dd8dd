"""Reading times: how much of them a model's surprisal explains beyond a word's length, frequency and place.

The task of BabyLM since 2025 (github.com/babylm/evaluation-pipeline-2025, `evaluation_pipeline/reading`): 1,726 words
of 205 English sentences that people read on an eye tracker and at their own pace (de Varda, Marelli and Amenta 2023).
Two linear models are fitted to each kind of reading time, without and with the surprisal; the score is the share of
the remaining variance that surprisal takes away, 100 (R2 - R2_base) / (1 - R2_base). What the surprisal is:
`evaluation/psychometrics/surprisal.py`.

Shapes: N words, P predictors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tutelage import recipe
from tutelage.base.files import sha256
from tutelage.base.types import Floats, Json, Precision
from tutelage.evaluation.benchmarks.conventions import Backend, Convention
from tutelage.evaluation.benchmarks.data import find
from tutelage.evaluation.benchmarks.measurement import Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.psychometrics.surprisal import Following, surprisals
from tutelage.evaluation.psychometrics.tables import linear_models, read_table
from tutelage.teaching.teachers import Ensemble

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EYE_TRACKING = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED = "self_paced_reading_time"
BASELINE = ("Subtlex_log10", "length", "context_length")
PUBLISHED = "published"
"""`reading:published`: surprisals as the published code takes them, which is what result files hold."""
SPILL_OVER = ("prev_length", "prev_pred")
"""A word is still being read when the next one is fixated: length and surprisal of the word before."""


@dataclass(frozen=True)
class ReadingData:
    """Words that people read, each with what stands before it."""

    words: tuple[Following, ...]
    previous: tuple[Following | None, ...]
    """The same of the word before; None where that begins the sentence."""
    measures: Mapping[str, Floats]
    """By column, reading times in milliseconds and the baseline's predictors, `(N,)`; NaN where missing."""


def read_reading(path: Path) -> ReadingData:
    """Read BabyLM's `reading_data.csv`; a `UserError` names line and column of what is missing or broken.

    An empty context is read as "None", as published: the one sentence that begins with that word has lost it.
    """
    texts = ("item", "word", "prev_item", "prev_word")
    numbers = (*BASELINE, "prev_length", *EYE_TRACKING, SELF_PACED)
    table = read_table(path, [*texts, *numbers])
    items, words = [item if item.strip() else "None" for item in table.texts("item")], table.words("word")
    previous = tuple(
        Following(word, item) if item.strip() and word.strip() else None
        for word, item in zip(table.texts("prev_word"), table.texts("prev_item"), strict=True)
    )
    pairs = tuple(Following(word, item) for word, item in zip(words, items, strict=True))
    return ReadingData(pairs, previous, {column: table.numbers(column) for column in numbers})


def find_reading() -> ReadingData:
    """Read the benchmark where `find` looks for it; a `UserError` where it is not on this machine, or broken."""
    return read_reading(find("reading") / "reading_data.csv")


def evaluate_reading(
    ensemble: Ensemble,
    tokenizer: PreTrainedTokenizerFast,
    data: ReadingData,
    convention: Convention,
    backend: Backend | None = None,
    as_published: bool = False,
    batch_tokens: int | None = None,
    precision: Precision = "fp32",
) -> MeasuredResult:
    """Score a model on reading times; for settings and errors see `surprisals`.

    The convention is for the record: the rule of 2025 and 2026 is one. `as_published` takes surprisals as the published
    code does, and drops the one previous context that it mistakes for a missing cell.

    Returns percent of the remaining variance: `eye_tracking` (mean of the four measures), `self_paced_reading`, and
    each measure by its column's name. `predictions` has the shape of a submission, `{"reading": {"predictions": [{"id",
    "pred", "prev_pred"}]}}`, in nats; null where there is no previous word. A `UserError` where `statsmodels` is
    missing.
    """
    linear_models()
    known = [pair is not None and not (as_published and pair.context == "None") for pair in data.previous]
    asked = [*data.words, *(pair for pair, there in zip(data.previous, known, strict=True) if pair and there)]
    found = surprisals(ensemble, tokenizer, asked, backend, as_published, batch_tokens, precision)
    pred, prev_pred = found[: len(data.words)], np.full(len(data.words), np.nan)
    prev_pred[known] = found[len(data.words) :]
    values = explained(data, pred, prev_pred)
    predictions = [
        {"id": index, "pred": _json(one), "prev_pred": _json(other)}
        for index, (one, other) in enumerate(zip(pred.tolist(), prev_pred.tolist(), strict=True))
    ]
    return MeasuredResult("reading", convention.name, "eye_tracking", values, {"reading": {"predictions": predictions}})


def _json(value: float) -> float | None:
    return value if np.isfinite(value) else None


def explained(data: ReadingData, pred: Floats, prev_pred: Floats) -> dict[str, MeasuredValue]:
    """Return how much the surprisals explain: of each word and of the one before it (NaN: none), `(N,)` nats."""
    columns = {**data.measures, "prev_pred": prev_pred}
    values = {name: _gain(columns, name, BASELINE, pred) for name in EYE_TRACKING}
    told = [value.value for value in values.values() if value.value is not None]
    notes = sorted({value.note for value in values.values() if value.note})
    mean = float(np.mean(told)) if len(told) == len(values) else None
    eye = MeasuredValue(mean, "percent", n=min(value.n for value in values.values()), note="; ".join(notes))
    spilled = _gain(columns, SELF_PACED, (*BASELINE, *SPILL_OVER), pred)
    return {"eye_tracking": eye, "self_paced_reading": spilled, **values}


def _gain(columns: Mapping[str, Floats], measure: str, predictors: Sequence[str], pred: Floats) -> MeasuredValue:
    """Share of the remaining variance of one measure that the surprisal explains, in percent."""
    stacked = np.column_stack([columns[measure], *(columns[name] for name in predictors)])
    whole = ~np.isnan(stacked).any(axis=1)
    used = whole & np.isfinite(pred)
    lost = int(whole.sum() - used.sum())
    note = f"{lost} words without a finite surprisal are left out" if lost else ""
    times, base = stacked[used, 0], design(stacked[used, 1:])
    if used.sum() <= base.shape[1] + 1:
        return MeasuredValue(None, "percent", n=int(used.sum()), note=f"{int(used.sum())} words are too few to fit")
    ols = linear_models().OLS
    if np.ptp(times) == 0:
        return MeasuredValue(None, "percent", n=int(used.sum()), note=f"{measure} is the same for all words")
    before, after = (float(ols(times, X).fit().rsquared) for X in (base, np.column_stack([base, pred[used]])))
    if before > 1 - 1e-9:
        return MeasuredValue(None, "percent", n=int(used.sum()), note=f"nothing is left of {measure} to explain")
    return MeasuredValue(100 * (after - before) / (1 - before), "percent", n=int(used.sum()), note=note)


def design(predictors_NP: Floats) -> Floats:
    """Return a constant, the predictors and the products of every two of them, `(N, 1 + P + P(P-1)/2)`."""
    columns = list(predictors_NP.T)
    products = [one * other for one, other in combinations(columns, 2)]
    return np.column_stack([np.ones(len(predictors_NP)), *columns, *products])


def _reading(context: Context) -> MeasuredResult:
    result = evaluate_reading(
        context.ensemble, context.tokenizer, find_reading(), context.convention,
        as_published=context.argument == PUBLISHED, batch_tokens=context.settings.batch_tokens,
        precision=context.precision,
    )  # fmt: skip
    return replace(result, name=context.name)


def _reading_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    find_reading()
    how = {"surprisal": PUBLISHED} if argument else {}
    return {"file": sha256(find("reading") / "reading_data.csv")} | how


READING = Measurement(_reading, _reading_inputs)
