"""Benchmarks by name: where their files are, and what a model scores on them.

Nothing is bundled but the starter pairs: benchmarks are looked for in `$TUTELAGE_DATA/eval/<folder>`, then in
`${TUTELAGE_CACHE:-~/.cache/tutelage}/eval/<folder>`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import numpy as np

from tutelage import starter
from tutelage.errors import UserError, nearest
from tutelage.evaluation.conventions import Convention, choose, strictly_right
from tutelage.evaluation.data import data_folders
from tutelage.evaluation.likelihood import Precision, log_probs
from tutelage.evaluation.pairs import Paradigm, read_pairs
from tutelage.evaluation.results import ParadigmScore, SuiteResult
from tutelage.teaching.teachers import Ensemble


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark: paradigms of questions."""

    name: str
    paradigms: tuple[Paradigm, ...]


@dataclass(frozen=True, slots=True)
class _Source:
    """Where a benchmark's files are put, and who publishes them."""

    folder: str
    origin: str
    licence: str


_BLIMP = "https://github.com/alexwarstadt/blimp, folder data"
_BABYLM_FULL = "https://osf.io/ryjfm (BabyLM 2025), evaluation_data/full_eval"
_BABYLM_FAST = "https://osf.io/ryjfm (BabyLM 2025), evaluation_data/fast_eval"
_UNSTATED = "stated nowhere by its authors: do not pass it on"

SOURCES = {
    "blimp": _Source("blimp", _BLIMP, "CC BY 4.0"),
    "blimp-filtered": _Source("blimp_filtered", _BABYLM_FULL, "CC BY 4.0 (BLiMP)"),
    "blimp-fast": _Source("blimp_fast", _BABYLM_FAST, "CC BY 4.0 (BLiMP)"),
    "blimp-supplement": _Source("supplement_filtered", _BABYLM_FULL, _UNSTATED),
    "blimp-supplement-fast": _Source("supplement_fast", _BABYLM_FAST, _UNSTATED),
}
STARTER = "starter-pairs"
FOLDER = "pairs:"


def find_suite(name: str) -> Suite:
    """Load a benchmark: `blimp`, another of `SOURCES`, `starter-pairs`, or `pairs:FOLDER`.

    Everything is read and checked, so that a missing or broken benchmark is known before a training begins.

    Raises:
        UserError: an unknown name (with the nearest), no folder (with where to get the files and where to put them), or
            a broken file (with its line).
    """
    return Suite(name, read_pairs(_folder(name)))


def _folder(name: str) -> Traversable:
    if name == STARTER:
        return starter.pairs_folder()
    if name.startswith(FOLDER):
        return Path(name.removeprefix(FOLDER)).expanduser()
    if name not in SOURCES:
        known = [*SOURCES, STARTER, f"{FOLDER}FOLDER"]
        raise UserError(f"unknown suite '{name}'{nearest(name, known)} (known: {', '.join(known)})")
    source = SOURCES[name]
    places = [place / "eval" / source.folder for place in data_folders()]
    for place in places:
        if place.is_dir():
            return place
    raise UserError(
        f"the files of suite '{name}' are not on this machine. Get them from {source.origin} (licence: "
        f"{source.licence}) and put its .jsonl files into {places[-1]}, or into $TUTELAGE_DATA/eval/{source.folder}"
    )


def evaluate_suite(ensemble: Ensemble, tokenizer: Any, suite: Suite, convention: Convention,
                   batch_tokens: int | None = None, precision: Precision = "fp32") -> SuiteResult:  # fmt: skip
    """Score a model, or several as one, on a benchmark.

    Args:
        ensemble: the model or models; a single one is an ensemble of one.
        tokenizer: their Hugging Face fast tokenizer.
        suite: from `find_suite`.
        convention: the year's rules, from `CONVENTIONS`.
        batch_tokens: tokens of a batch, padding included; by default what suits the device.
        precision: `bf16` runs the models under autocast; the output layer stays in float32.

    Raises:
        UserError: a sentence that does not fit the model or its tokenizer.
    """
    items = [item for paradigm in suite.paradigms for question in paradigm.questions for item in question.options]
    likelihood = log_probs(ensemble, tokenizer, items, convention, batch_tokens, precision, f"scoring {suite.name}")
    scores = likelihood.reduced(getattr(convention, ensemble.kind).reduction)
    counts = [len(paradigm.questions) * len(paradigm.questions[0].options) for paradigm in suite.paradigms]
    parts = np.split(scores, np.cumsum(counts)[:-1])
    paradigms, kept = {}, {}
    for paradigm, part in zip(suite.paradigms, parts, strict=True):
        scores_NK = part.reshape(len(paradigm.questions), -1)
        chosen_N = choose(scores_NK, convention, [question.key for question in paradigm.questions])
        paradigms[paradigm.uid] = ParadigmScore(
            accuracy=float(np.mean(chosen_N == 0)),
            strict=float(np.mean(strictly_right(scores_NK))),
            n=len(paradigm.questions),
            field=paradigm.field,
            phenomenon=paradigm.phenomenon,
        )
        kept[paradigm.uid] = scores_NK
    return SuiteResult(suite.name, convention, paradigms, kept)
