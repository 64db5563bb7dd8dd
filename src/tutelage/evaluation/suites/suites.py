"""Benchmarks by name: where their files are, and what a model scores on them.

A new benchmark is a function that reads its files, and a line in `SOURCES`; outside of the package a function that
returns paradigms, named `package.module:function`. Where files are looked for stands in `benchmarks/data.py`.

A benchmark becomes questions, whose options are texts; a model gives the log-probability of each (`likelihood/`), and
`judge` makes scores of that.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerFast

from tutelage import starter
from tutelage.base.errors import MissingData, UserError, nearest
from tutelage.base.functions import load_function
from tutelage.base.progress import console
from tutelage.base.types import Floats, Ints, Precision
from tutelage.evaluation.benchmarks.conventions import (
    CONVENTIONS,
    Convention,
    ItemRules,
    Reduction,
    choose,
    strictly_right,
)
from tutelage.evaluation.benchmarks.items import Item, TokenRows, encode
from tutelage.evaluation.benchmarks.results import MeasuredResult, ParadigmScore, SuiteResult
from tutelage.evaluation.likelihood.causal import score_rows
from tutelage.evaluation.suites.pair_rows import split_path
from tutelage.evaluation.suites.pairs import read_pairs, read_zorro
from tutelage.evaluation.suites.questions import Paradigm
from tutelage.evaluation.suites.sources import FOLDERS, PAIRS, SOURCES, STARTER, SYNTAXGYM, ZORRO, own_name
from tutelage.evaluation.suites.syntaxgym import margins, read_syntaxgym
from tutelage.evaluation.suites.wug import correlated, read_wug
from tutelage.teaching.teachers import Ensemble


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark: paradigms of questions."""

    name: str
    paradigms: tuple[Paradigm, ...]
    rules: ItemRules | None = None
    """By which its files were read, if the years read them differently."""
    nested: bool = False
    """See `SuiteResult.nested`."""
    ratios: tuple[float, ...] | None = None
    """People's shares of the first options, if it is not about right and wrong (WUG)."""


def find_suite(name: str, convention: Convention = CONVENTIONS["2025"]) -> Suite:
    """Load a benchmark: one of `SOURCES`, `starter-pairs`, `pairs:FOLDER` and its like, `package.module:function`.

    Everything is read and checked, so that a missing or broken benchmark is known before a training begins. The
    convention decides what becomes of the files of EWoK and entity tracking; the same must score them.

    Raises:
        UserError: an unknown name (with the nearest), no folder (with where to get the files and where to put them), or
            a broken file (with its line).
    """
    scheme, _, path = name.partition(":")
    if f"{scheme}:" in FOLDERS:
        if f"{scheme}:" == PAIRS:
            path, columns = split_path(path)
            return Suite(name, read_pairs(Path(path).expanduser(), columns))
        read = {ZORRO: read_zorro, SYNTAXGYM: read_syntaxgym}[f"{scheme}:"]
        return Suite(name, read(Path(path).expanduser()))
    if name == STARTER:
        return Suite(name, read_pairs(starter.pairs_folder()))
    if own := own_name(name):
        return Suite(name, _own_paradigms(name, *own))
    if name not in SOURCES:
        known = [*SOURCES, STARTER, *(f"{prefix}FOLDER" for prefix in FOLDERS)]
        raise UserError(f"unknown suite '{name}'{nearest(name, known)} (known: {', '.join(known)})")
    source = SOURCES[name]
    try:
        place = source.place()
    except MissingData as error:
        raise MissingData(f"suite '{name}': {error}") from error
    if source.read is None:
        paradigm, ratios_N = read_wug(place)
        return Suite(name, (paradigm,), ratios=tuple(ratios_N.tolist()))
    rules = convention.items if source.by_rules else None
    return Suite(name, source.read(place, convention.items), rules, source.nested)


def _own_paradigms(name: str, function: str, argument: str) -> tuple[Paradigm, ...]:
    """Call a user's function, and check what it returns."""
    make, given = load_function(function), [argument] if argument else []
    try:
        inspect.signature(make).bind(*given)
    except TypeError as error:
        takes = "one argument" if given else "no argument"
        raise UserError(f"suite '{name}': '{function}' must be a function of {takes}") from error
    paradigms = make(*given)
    if not isinstance(paradigms, Sequence) or not all(isinstance(one, Paradigm) for one in paradigms) or not paradigms:
        raise UserError(f"suite '{name}': '{function}' must return a list of `Paradigm`, not {paradigms!r:.80}")
    uids = [paradigm.uid for paradigm in paradigms]
    for paradigm in paradigms:
        fewest = min((len(question.options) for question in paradigm.questions), default=0)
        if uids.count(paradigm.uid) > 1 or fewest < (1 if paradigm.formulas else 2):
            wrong = f"suite '{name}': paradigm '{paradigm.uid}'"
            raise UserError(f"{wrong} must have a name of its own, and questions of two options or more")
    return tuple(paradigms)


def evaluate(ensemble: Ensemble, tokenizer: PreTrainedTokenizerFast, suite: Suite, convention: Convention,
             batch_tokens: int | None = None, precision: Precision = "fp32", rows: TokenRows | None = None
             ) -> SuiteResult | MeasuredResult:  # fmt: skip
    """Score a model, or several as one, on any benchmark of this module.

    Args:
        suite: from `find_suite`.
        batch_tokens: tokens of a batch, padding included; by default what suits the device.
        precision: `bf16` runs the models under autocast; the output layer stays in float32.
        rows: all of `items_of` as `encode` makes rows of them, where somebody has done so already.

    Raises:
        UserError: a sentence that does not fit the model or its tokenizer, or a suite read by another year's rules.
    """
    items = items_of(suite)
    rows = encode(tokenizer, items, ensemble.kind, convention) if rows is None else rows
    texts, label = [item.prefix + item.completion for item in items], f"scoring {suite.name}"
    likelihood = score_rows(ensemble, tokenizer, rows, texts, convention.masked, batch_tokens, precision, label)
    return judge(suite, likelihood.reduced(reduction_of(suite, convention, ensemble.kind)), convention)


def evaluate_suite(ensemble: Ensemble, tokenizer: PreTrainedTokenizerFast, suite: Suite, convention: Convention,
                   batch_tokens: int | None = None, precision: Precision = "fp32") -> SuiteResult:  # fmt: skip
    """Do as `evaluate`, for a benchmark of right and wrong; one that is compared with people is refused."""
    result = None if suite.ratios else evaluate(ensemble, tokenizer, suite, convention, batch_tokens, precision)
    if not isinstance(result, SuiteResult):
        raise UserError(f"suite '{suite.name}' has no right and wrong answers, but people's shares: call `evaluate`")
    return result


def items_of(suite: Suite) -> list[Item]:
    """Return all options of all questions, in order: what `judge` wants the log-probabilities of."""
    return [item for paradigm in suite.paradigms for question in paradigm.questions for item in question.options]


def reduction_of(suite: Suite, convention: Convention, kind: Literal["causal", "masked"]) -> Reduction:
    """Return whether a text's score is the sum over its tokens, or their mean."""
    if suite.name in convention.length_normalised:
        return "mean"
    if any(paradigm.formulas for paradigm in suite.paradigms):
        return "sum"
    return convention.causal.reduction if kind == "causal" else convention.masked.reduction


def judge(suite: Suite, scores: Floats, convention: Convention) -> SuiteResult | MeasuredResult:
    """Make scores of the log-probabilities of `items_of` (nats), from wherever they come.

    A suite that was read by the rules of another year is refused.
    """
    if suite.rules is not None and suite.rules != convention.items:
        call = f"call find_suite('{suite.name}', convention) with the convention that scores it"
        raise UserError(f"suite '{suite.name}' was read by other rules than those of {convention.name}: {call}")
    if broken := int(np.isnan(scores).sum()):
        console.print(
            f"{suite.name}: {broken:,} of {len(scores):,} scores are not numbers. The rules of {convention.name} "
            f"{'call such an option the best' if convention.ties == 'first' else 'call such an option the worst'}; "
            "`strict` counts it as wrong. Look whether the model's weights are finite"
        )
    counts = [sum(len(question.options) for question in paradigm.questions) for paradigm in suite.paradigms]
    parts = np.split(scores, np.cumsum(counts)[:-1])
    if suite.ratios is not None:
        scores_NK, _ = _table(suite.paradigms[0], parts[0])
        return correlated(suite.name, suite.paradigms[0], np.array(suite.ratios), scores_NK, convention)
    paradigms, kept, chosen = {}, {}, {}
    for paradigm, part in zip(suite.paradigms, parts, strict=True):
        scores_NK, chosen_N = _chosen(paradigm, part, convention)
        right, strict = float(np.mean(chosen_N == 0)), float(np.mean(strictly_right(scores_NK)))
        about = len(paradigm.questions), paradigm.field, paradigm.phenomenon
        paradigms[paradigm.uid] = ParadigmScore(right, strict, *about)
        kept[paradigm.uid], chosen[paradigm.uid] = scores_NK, chosen_N
    return SuiteResult(suite.name, convention, paradigms, kept, chosen, suite.nested)


def _chosen(paradigm: Paradigm, scores: Floats, convention: Convention) -> tuple[Floats, Ints]:
    """What is kept of one paradigm, `(N, K)`, and what was chosen, `(N,)`."""
    scores_NK, options_N = _table(paradigm, scores)
    if paradigm.formulas:
        margin_N = margins(paradigm, scores_NK)
        return np.stack([margin_N, np.zeros_like(margin_N)], axis=1), np.where(margin_N > 0, 0, 1)
    return scores_NK, choose(scores_NK, convention, [question.key for question in paradigm.questions], options_N)


def _table(paradigm: Paradigm, scores: Floats) -> tuple[Floats, Ints]:
    """Scores by question and option, minus infinity where a question has fewer options; and how many each has."""
    options_N = np.array([len(question.options) for question in paradigm.questions])
    scores_NK = np.full((len(options_N), int(options_N.max())), -np.inf)
    scores_NK[np.arange(scores_NK.shape[1]) < options_N[:, None]] = scores
    return scores_NK, options_N
