"""Evaluations by name, as recipes and `tutelage evaluate` write them: found and checked early, measured later.

A name is a suite of right and wrong options (`evaluation.suites`), or one of `MEASUREMENTS`, perhaps with an
argument behind a colon, or `package.module:function`, a suite or measurement of the user's own. Held-out losses belong
to experiments; see `experiment.score`.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from transformers import PreTrainedTokenizerFast

from tutelage import recipe
from tutelage.base.checksums import read_checked, write_checked
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, write_bytes, write_json
from tutelage.base.functions import code_digest, load_object
from tutelage.base.types import Json, Precision
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Convention, next_token_by_mask
from tutelage.evaluation.benchmarks.items import TokenRows, encode
from tutelage.evaluation.benchmarks.measurement import Context, Measurement, Need
from tutelage.evaluation.benchmarks.results import MeasuredResult, SuiteResult
from tutelage.evaluation.buckets import BUCKETS
from tutelage.evaluation.calibration import CALIBRATION
from tutelage.evaluation.finetune.glue import GLUE
from tutelage.evaluation.names import check_name, own_evaluation
from tutelage.evaluation.psychometrics.acquisition import AOA
from tutelage.evaluation.psychometrics.reading import READING
from tutelage.evaluation.suites.sources import FOLDERS
from tutelage.evaluation.suites.suites import Suite, evaluate, find_suite, items_of
from tutelage.evaluation.task_heads import TASKS

Result = SuiteResult | MeasuredResult
MEASUREMENTS: Mapping[str, Measurement] = {
    "reading": READING,
    "aoa": AOA,
    "calibration": CALIBRATION,
    "buckets": BUCKETS,
    "tasks": TASKS,
    "glue": GLUE,
}
"""Evaluations beside the suites, by the name before the colon."""


@dataclass(frozen=True)
class NamedEvaluation:
    """An evaluation that is ready to run: its name is known, its files are here."""

    name: str
    inputs: Json
    """Everything that decides its result beside the model and the year."""
    run: Callable[[Context], Result]
    texts: tuple[str, ...] = ()
    """Of a suite, every text that is scored, with what stands before it."""
    needs: frozenset[Need] = frozenset()
    """See `Measurement`."""
    suite: Suite | None = None
    """The questions, if it is a suite."""


def needs_of(name: str) -> frozenset[Need]:
    """Return what an evaluation needs beside a model; see `Measurement`."""
    measurement, _ = _measurement(name)
    return frozenset() if measurement is None else measurement.needs


def _measurement(name: str) -> tuple[Measurement | None, str]:
    """The measurement of a name, and the argument for it; no measurement if it is a suite."""
    family, _, argument = name.partition(":")
    if family in MEASUREMENTS:
        return MEASUREMENTS[family], argument
    own = own_evaluation(name)
    named = load_object(own[0]) if own else None
    return (named, own[1]) if own and isinstance(named, Measurement) else (None, "")


def find(name: str, settings: recipe.Evaluation) -> NamedEvaluation:
    """Read and check what an evaluation needs beside a model.

    Raises:
        UserError: an unknown name, missing files (with where to get them), or broken ones.
    """
    check_name(name)
    own, (measurement, argument) = own_evaluation(name), _measurement(name)
    source = {"source": code_digest(own[0])} if own else {}
    if measurement is not None:
        run = measurement.run
        return NamedEvaluation(
            name,
            source | measurement.inputs(argument, settings),
            lambda context: run(replace(context, argument=argument)),
            needs=measurement.needs,
        )
    suite = find_suite(name, CONVENTIONS[settings.convention])
    paradigms = [
        [p.uid, [repr(q) for q in p.questions], [str(formula.source) for formula in p.formulas]]
        for p in suite.paradigms
    ]
    items = fingerprint([paradigms, suite.ratios])
    options = (item for p in suite.paradigms for question in p.questions for item in question.options)
    texts = tuple(dict.fromkeys(item.prefix + item.completion for item in options))
    return NamedEvaluation(
        name, source | {"items": items}, _chooser(suite, CONVENTIONS[settings.convention]), texts, suite=suite
    )


def _chooser(suite: Suite, convention: Convention) -> Callable[[Context], Result]:
    """Make the run of a suite, which tokenizes it once for all models that share a tokenizer, checkpoints above all."""

    @lru_cache(maxsize=1)
    def rows(tokenizer: PreTrainedTokenizerFast, kind: recipe.ModelKind, rules: Convention) -> TokenRows:
        return encode(tokenizer, items_of(suite), kind, rules)

    def run(context: Context) -> Result:
        ensemble, settings = context.ensemble, context.settings
        rules = next_token_by_mask(convention) if ensemble.backend == "mntp" else convention
        encoded = rows(context.tokenizer, ensemble.kind, rules)
        return evaluate(ensemble, context.tokenizer, suite, rules, settings.batch_tokens, context.precision, encoded)

    return run


def write_score(folder: Path, result: Result, name: str, of: Json, precision: Precision) -> Json:
    """Write an evaluation's score, and beside it what was said of every item; return the score.

    `NAME.json` has the score, what it depends on and the arithmetic, and is written last. Of suites,
    `NAME.log_probs.npz` has the log-probabilities of all options, `(N, K)` float32 by `<suite>/<paradigm>`,
    `NAME.items.npz` the margins and `NAME.chosen.npz` the options chosen, `(N,)` int8; of other evaluations
    `NAME.predictions.json` has what they keep of single items.
    """
    if isinstance(result, SuiteResult):
        said = {f"{result.suite}/{uid}": scores_NK for uid, scores_NK in result.log_probs.items()}
        save_arrays(folder / f"{file_name(name)}.log_probs.npz", said)
        save_arrays(folder / f"{file_name(name)}.items.npz", result.margins())
        chosen = {f"{result.suite}/{uid}": chosen_N for uid, chosen_N in result.chosen.items()}
        save_arrays(folder / f"{file_name(name)}.chosen.npz", chosen, np.int8)
    elif result.predictions is not None:
        write_json(folder / f"{file_name(name)}.predictions.json", result.predictions, compact=True)
    score = result.to_json()
    write_checked(folder / f"{file_name(name)}.json", {"of": of, "precision": precision, "score": score})
    return score


def read_score(folder: Path, name: str, of: Json) -> Json | None:
    """Return a score measured before; None where there is none, or only one of something else."""
    path = folder / f"{file_name(name)}.json"
    if not path.is_file():
        return None
    found = read_checked(path)
    return found["score"] if found.get("of") == of else None


def save_arrays(path: Path, arrays: Mapping[str, Any], dtype: type[np.generic] = np.float32) -> None:
    """Write arrays to an `.npz` file, atomically; as float32 unless another type is given."""
    buffer = io.BytesIO()
    narrow: dict[str, Any] = {key: np.asarray(value, dtype=dtype) for key, value in arrays.items()}
    np.savez_compressed(buffer, **narrow)
    write_bytes(path, buffer.getvalue())


def load_arrays(path: Path) -> dict[str, Any]:
    """Read arrays that `save_arrays` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and its score, and evaluate again") from error


def file_name(name: str) -> str:
    """Make a file name of an evaluation's name, which may hold a path."""
    if own := own_evaluation(name):
        # With a digest, or `blimp:fast` would be the suite `blimp-fast`.
        return f"{own[0].replace(':', '-')}-{fingerprint(name)[:8]}"
    if name.startswith(FOLDERS):
        return f"{name.partition(':')[0]}-{Path(name).name}-{fingerprint(name)[:8]}"
    return name.replace(":", "-")
