"""Age of acquisition: whether a model learns words in the order in which children do (BabyLM 2025 and 2026).

After Chang and Bergen (2022): a sigmoid is fitted to a word's surprisal over the course of training; the word counts as
learned where the curve crosses half the way from ignorance to the lowest surprisal. A sigmoid fitted to the share of
children who say the word gives their age at one half. The score is Pearson's correlation of the two over all words.

The rules were read in `evaluation_pipeline/AoA_word` and `evaluation_pipeline/utils.py` of
github.com/babylm/evaluation-pipeline-2025 and, for 2026, in public copies of the folder `strict` of
github.com/babylm-org/babylm-eval. (A state of the code of 2025 scored every word behind the start token alone, without
its contexts; that is not reproduced.) The task of 2023 is another one: `acquisition_2023.py`.

Shapes: N points of a learning curve, A ages.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit
from scipy.special import expit
from scipy.stats import pearsonr

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import sha256
from tutelage.base.types import Floats, Json
from tutelage.evaluation.benchmarks.conventions import Convention
from tutelage.evaluation.benchmarks.data import find
from tutelage.evaluation.benchmarks.measurement import Checkpoint, Context, Measurement
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.psychometrics import trajectory
from tutelage.evaluation.psychometrics.acquisition_2023 import evaluate_acquisition_2023, mean_surprisals
from tutelage.evaluation.psychometrics.acquisition_data import AcquisitionData, find_acquisition, read_predictors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FEWEST_CHECKPOINTS = 4
"""A sigmoid has four parameters. The published code asks for three points, which fit many sigmoids equally well."""
FEWEST_WORDS = 3
PREDICTORS_2023 = "english_american_predictors.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class AcquisitionRules:
    """What the years do differently."""

    average: bool
    """Whether the contexts of a word are averaged at each checkpoint before the fit. 2025 fits all points together, and
    takes the lowest surprisal of any context."""
    ceiling: float | None
    """Surprisal of ignorance. 2025: log2 of 300,000 words, although surprisals are in nats. None (2026): that of a
    uniform guess at each of the word's tokens, `tokens * ln(vocabulary)`."""
    bounded: bool
    """Whether the sigmoid's parameters have bounds."""
    evaluations: int
    """How often the fit may evaluate the sigmoid."""
    least: float
    """Slope and height of the curve at or below which a word counts as never learned."""
    significance: float | None
    """Largest p-value; a correlation above it counts as 0."""


RULES: Mapping[str, AcquisitionRules] = {
    "2025": AcquisitionRules(
        average=False, ceiling=float(np.log2(300_000)), bounded=False, evaluations=1000, least=0.0, significance=None
    ),
    "2026": AcquisitionRules(
        average=True, ceiling=None, bounded=True, evaluations=20_000, least=1e-6, significance=0.1
    ),
}


def evaluate_acquisition(
    surprisals: Mapping[str, Any], data: AcquisitionData, convention: Convention, tokenizer: PreTrainedTokenizerFast
) -> MeasuredResult:
    """Score the order in which a model learned words by the rules of 2025 or 2026, which needs the vocabulary.

    `surprisals` are a `surprisal.json`, from `trajectory` or the official pipeline. Returns `aoa`, the year's score;
    `correlation`, the same before a year counts it as 0; `words_learned`, the share of the words with a child's age for
    which the model has one. Floats that cannot be told are None, with the reason. Entries without their fields and a
    year without this task are a `UserError`.
    """
    year = convention.year
    if year not in RULES:
        other = "evaluate_acquisition_2023 (a linear model)" if year == "2023" else "none"
        raise UserError(f"age of acquisition has rules for {', '.join(RULES)}; for {year}: {other}")
    rules = RULES[year]
    curves = learning_curves(surprisals)
    checkpoints = len({count for words, _ in curves.values() for count in words.tolist()})
    if checkpoints < FEWEST_CHECKPOINTS:
        note = f"{checkpoints} checkpoints are too few: a learning curve has four parameters; keep at least 4"
        blank = MeasuredValue(None, "correlation", note=note)
        return MeasuredResult("aoa", convention.name, "aoa", {"aoa": blank, "correlation": blank}, surprisals)
    pairs = ages(curves, data, rules, tokenizer)
    learned = [(model, child) for model, child in pairs.values() if model is not None]
    values = _correlate(learned, rules)
    missing = sum(not texts for texts in data.contexts.values())
    note = f"{missing} words have no contexts" if missing else ""
    share = len(learned) / len(pairs) if pairs else None
    values["words_learned"] = MeasuredValue(share, "share", n=len(pairs), note=note)
    return MeasuredResult("aoa", convention.name, "aoa", values, surprisals)


def _correlate(learned: Sequence[tuple[float, float]], rules: AcquisitionRules) -> dict[str, MeasuredValue]:
    n = len(learned)
    if n < FEWEST_WORDS:
        note = f"{n} words have an age in both model and children, too few to correlate (the published code writes 0)"
        blank = MeasuredValue(None, "correlation", n=n, note=note)
        return {"aoa": blank, "correlation": blank}
    model, child = np.array(learned).T
    if np.ptp(model) == 0 or np.ptp(child) == 0:
        blank = MeasuredValue(None, "correlation", n=n, note="all words have the same age: no correlation")
        return {"aoa": blank, "correlation": blank}
    r, p = (float(number) for number in pearsonr(model, child))
    raw = MeasuredValue(r, "correlation", n=n, note=f"p = {p:.3g}")
    if rules.significance is None or p <= rules.significance:
        return {"aoa": raw, "correlation": raw}
    note = f"r = {r:.3f} at p = {p:.2g}; above p = {rules.significance:g} the rule counts it as 0"
    return {"aoa": MeasuredValue(0.0, "correlation", n=n, note=note), "correlation": raw}


def learning_curves(surprisals: Mapping[str, Any]) -> dict[str, tuple[Floats, Floats]]:
    """Return by word the words seen and the surprisals, `(N,)` each, by rising words seen; NaN is left out.

    Entries without their fields are a `UserError`.
    """
    entries = surprisals.get("results")
    if not isinstance(entries, list) or not entries:
        raise UserError("surprisals of words need a list 'results' with one entry a word, context and checkpoint")
    points: dict[str, list[tuple[float, float]]] = {}
    for number, entry in enumerate(entries):
        try:
            point = (float(entry["word_count"]), float(entry["surprisal"]))
            points.setdefault(str(entry["target_word"]), []).append(point)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"entry {number} of 'results' is {str(entry)[:120]}: it needs target_word, word_count and surprisal"
            ) from error
    curves = {}
    for word, found in points.items():
        array = np.array(sorted(point for point in found if np.isfinite(point[1]))).reshape(-1, 2)
        curves[word] = (array[:, 0], array[:, 1])
    return curves


def ages(
    curves: Mapping[str, tuple[Floats, Floats]],
    data: AcquisitionData,
    rules: AcquisitionRules,
    tokenizer: PreTrainedTokenizerFast,
) -> dict[str, tuple[float | None, float]]:
    """Return each word's age in the model (log10 of words seen + 1; None where it has none) and in children (months).

    Words for which children's age cannot be told are left out.
    """
    found: dict[str, tuple[float | None, float]] = {}
    for word, (seen, surprisal) in curves.items():
        if word not in data.shares or (child := child_age(data.ages, data.shares[word])) is None:
            continue
        ceiling = rules.ceiling if rules.ceiling is not None else uniform_surprisal(tokenizer, word)
        if rules.average:
            counts, group = np.unique(seen, return_inverse=True)
            seen, surprisal = counts, np.bincount(group, weights=surprisal) / np.bincount(group)
        found[word] = (model_age(seen, surprisal, ceiling, rules), child)
    return found


def uniform_surprisal(tokenizer: PreTrainedTokenizerFast, word: str) -> float:
    """Return what a uniform guess at each token of a word costs, in nats (the ceiling of 2026).

    The published count of tokens: those of "The word" beyond those of "The", at least one; the vocabulary is
    `tokenizer.vocab_size`, which leaves out tokens added later.
    """
    before, whole = (len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("The", f"The {word}"))
    return max(1, whole - before) * float(np.log(tokenizer.vocab_size))


def child_age(ages_A: Floats, shares_A: Floats) -> float | None:
    """Return the months at which a sigmoid fitted to children's shares is one half; None outside the ages asked for."""
    known = ~np.isnan(shares_A)
    if known.sum() < 3:
        return None
    months, shares = ages_A[known], shares_A[known]
    start = (1.0, 0.1, float(months.mean()), 0.0)
    bounds = ((0.0, 0.0, months[0], -0.5), (2.0, 1.0, months[-1], 0.5))
    age = _crossing(months, shares, 0.5, start, bounds, 1000, 0.0)
    return age if age is not None and months[0] <= age <= months[-1] else None


def model_age(seen_N: Floats, surprisal_N: Floats, ceiling: float, rules: AcquisitionRules) -> float | None:
    """Return log10(words seen + 1) at which the fitted curve is half the way from `ceiling` to the lowest surprisal.

    None where the fit fails, the curve falls or stays flat, or never crosses between the first and last checkpoint.
    `seen_N` rises; surprisals are in nats.
    """
    if len(seen_N) < 3:
        return None
    x, y = np.log10(seen_N + 1), -surprisal_N
    height = float(np.ptp(y))
    start = (height, 1.0, float(x.mean()), float(y.min()))
    bounds = None
    if rules.bounded:
        least = (0.0, 0.0, x.min() - 1, y.min() - 2 * height - 1)
        bounds = least, (10 * height + 1, 100.0, x.max() + 1, y.max() + 1)
    half = -(ceiling + float(surprisal_N.min())) / 2
    age = _crossing(x, y, half, start, bounds, rules.evaluations, rules.least)
    return age if age is not None and x[0] <= age <= x[-1] else None


def _sigmoid(x: Floats, height: float, slope: float, middle: float, floor: float) -> Floats:
    curve: Floats = height * expit(slope * (x - middle)) + floor
    return curve


def _crossing(
    x: Floats, y: Floats, level: float, start: Sequence[float], bounds: Any, evaluations: int, least: float
) -> float | None:
    """Where a sigmoid fitted to some points reaches a level; None where it does not, or cannot be fitted."""
    limits = {} if bounds is None else {"bounds": bounds}
    try:
        with warnings.catch_warnings():
            # That its parameters have no error bars does not matter here.
            warnings.simplefilter("ignore", OptimizeWarning)
            found, _ = curve_fit(_sigmoid, x, y, p0=start, maxfev=evaluations, **limits)
    except (RuntimeError, ValueError, TypeError):
        # No convergence, a start outside the bounds, or fewer points than parameters.
        return None
    height, slope, middle, floor = (float(parameter) for parameter in found)
    if slope <= least or height <= least or not floor < level < height + floor:
        return None
    return middle - float(np.log(height / (level - floor) - 1)) / slope


def _aoa(context: Context) -> MeasuredResult:
    known = find_acquisition()

    def measured(at: Checkpoint) -> list[trajectory.WordSurprisal]:
        def compute() -> list[trajectory.WordSurprisal]:
            return trajectory.checkpoint_surprisals(
                at.load(), context.tokenizer, known.contexts, at.name, at.words_seen,
                batch_tokens=context.settings.batch_tokens, precision=context.precision,
            )  # fmt: skip

        entries: list[trajectory.WordSurprisal] = context.part(at.name, compute)
        return entries

    if context.convention.name == "2023":
        entries = measured(Checkpoint("main", 0, lambda: context.ensemble))
        predictors = read_predictors(find("aoa") / PREDICTORS_2023)
        return evaluate_acquisition_2023(mean_surprisals(entries), predictors)
    if not context.checkpoints:
        note = "no checkpoints: ensembles have none, a model those that models.*.checkpoints names"
        nothing = {"aoa": MeasuredValue(None, "correlation", note=note)}
        return MeasuredResult("aoa", context.convention.name, "aoa", nothing)
    rows = [entry for at in context.checkpoints for entry in measured(at)]
    surprisals = trajectory.as_submission(rows, context.label, len(context.checkpoints))
    result = evaluate_acquisition(surprisals, known, context.convention, context.tokenizer)
    cut = trajectory.contexts_cut(context.ensemble, context.tokenizer, known.contexts)
    if not cut:
        return result
    note = f"of {cut:,} contexts longer than the model's positions only the end was read"
    values = {key: replace(one, note="; ".join(filter(None, (one.note, note)))) for key, one in result.values.items()}
    return replace(result, values=values)


def _aoa_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    find_acquisition()
    folder = find("aoa")
    names = ["cdi_childes.json", PREDICTORS_2023 if settings.convention == "2023" else "cdi_human.csv"]
    if settings.convention == "2023":
        read_predictors(folder / PREDICTORS_2023)
    if settings.convention == "2024":
        raise UserError("evaluation 'aoa' has rules for 2023, 2025 and 2026, none for 2024: set evaluation.convention")
    return {"files": [sha256(folder / name) for name in names]}


AOA = Measurement(_aoa, _aoa_inputs, needs=frozenset({"checkpoints"}))
