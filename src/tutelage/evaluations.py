"""Evaluations by name, as recipes and `tutelage evaluate` write them: found and checked early, measured later.

A name is a suite of right and wrong options (`evaluation.suites`), or one of `EVALUATIONS` at the foot of this file,
perhaps with an argument behind a colon. Held-out losses belong to experiments; see `scoring`.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tutelage import recipe
from tutelage.errors import UserError, nearest
from tutelage.evaluation.conventions import CONVENTIONS, Convention
from tutelage.evaluation.likelihood import Precision
from tutelage.evaluation.results import MeasuredResult, SuiteResult
from tutelage.evaluation.suites import FOLDER, SOURCES, STARTER, Suite, evaluate_suite, find_suite
from tutelage.files import fingerprint, read_json, write_bytes, write_json
from tutelage.models.language_model import LanguageModel
from tutelage.run_folder import Json
from tutelage.teaching.teachers import Ensemble

Result = SuiteResult | MeasuredResult


class Speakers:
    """The models that are evaluated, loaded when somebody first asks for them.

    Args:
        load: loads them anew at each call.
        device: where they compute.
    """

    def __init__(self, load: Callable[[], list[LanguageModel]], device: torch.device) -> None:
        self.load = load
        self.device = device

    @cached_property
    def ensemble(self) -> Ensemble:
        """All of them as one frozen voice, shared by everything that only listens."""
        return Ensemble(self.load()).to(self.device)


@dataclass(frozen=True)
class Checkpoint:
    """A state of a model that its training kept.

    Attributes:
        words: whitespace words read until then, repeats included.
        name: of the state, such as `step-2000`.
        load: loads it, on the device.
    """

    words: int
    name: str
    load: Callable[[], Ensemble]


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an evaluation may use.

    Attributes:
        name: as the recipe writes it.
        label: whose evaluation this is, for progress bars and messages.
        seed: for whatever an evaluation draws, such as the order of fine-tuning.
        tokenizer: the models' Hugging Face fast tokenizer.
        settings: the recipe's `evaluation`.
        precision: arithmetic of the models.
        speakers: the models.
        checkpoints: earlier states of a single model, by words read; empty where none were kept, and for ensembles.
        parts: folder for results of parts, so that what is done survives a stop; see `part`.
    """

    name: str
    label: str
    seed: int
    tokenizer: Any
    settings: recipe.Evaluation
    precision: Precision
    speakers: Speakers
    parts: Path
    checkpoints: Sequence[Checkpoint] = field(default=())

    @property
    def argument(self) -> str:
        """What stands behind the name's colon."""
        return self.name.partition(":")[2]

    @property
    def convention(self) -> Convention:
        """The year's rules."""
        return CONVENTIONS[self.settings.convention]

    @property
    def ensemble(self) -> Ensemble:
        """The models as one frozen voice."""
        return self.speakers.ensemble

    def fresh(self) -> list[LanguageModel]:
        """Load the models anew, for an evaluation that changes their weights."""
        return [model.to(self.speakers.device) for model in self.speakers.load()]

    def part(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return a part's result (JSON), computed once and kept until the whole evaluation is done.

        Args:
            key: of the part; a file name.
            compute: what is done where the part is not kept yet.
        """
        path = self.parts / f"{key}.json"
        if not path.is_file():
            write_json(path, compute())
        return read_json(path)


@dataclass(frozen=True)
class Measurement:
    """An evaluation that is no choice between options.

    Attributes:
        run: measures.
        inputs: by argument and settings, everything that decides the result beside the model and the year, as JSON:
            digests of the files it reads, settings of its own. Called before any training; raises a `UserError` for an
            argument that does not exist or files that are missing.
        arguments: what may stand behind the colon, for messages; nothing if the name stands alone.
    """

    run: Callable[[Context], MeasuredResult]
    inputs: Callable[[str, recipe.Evaluation], Json]
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """An evaluation that is ready to run: its name is known, its files are here.

    Attributes:
        name: as the recipe writes it.
        inputs: everything that decides its result beside the model and the year.
        run: measures.
        texts: of a suite, every text that is scored, with what stands before it.
    """

    name: str
    inputs: Json
    run: Callable[[Context], Result]
    texts: tuple[str, ...] = ()


def names() -> list[str]:
    """List the evaluations that can be named; arguments included."""
    measured = [full for name, one in EVALUATIONS.items() for full in (name, *(f"{name}:{a}" for a in one.arguments))]
    return [*SOURCES, STARTER, *measured, f"{FOLDER}FOLDER"]


def check_name(name: str, besides: Iterable[str] = ()) -> None:
    """Refuse a name that means nothing; looks at no file.

    Args:
        name: to be checked.
        besides: further names that are known where this one stands.

    Raises:
        UserError: with the nearest name.
    """
    family, colon, argument = name.partition(":")
    known = [*besides, *names()]
    if name in known or name.startswith(FOLDER):
        return
    if family in EVALUATIONS and colon:
        choices = EVALUATIONS[family].arguments
        if not choices:
            raise UserError(f"evaluation '{name}': '{family}' stands alone, without a colon")
        hint = f"{nearest(argument, choices)} (known: {', '.join(choices)})"
        raise UserError(f"evaluation '{name}': '{family}' has no '{argument}'{hint}")
    raise UserError(f"unknown evaluation '{name}'{nearest(name, known)} (known: {', '.join(known)})")


def find(name: str, settings: recipe.Evaluation) -> Found:
    """Read and check what an evaluation needs beside a model.

    Raises:
        UserError: an unknown name, missing files (with where to get them), or broken ones.
    """
    check_name(name)
    family = name.partition(":")[0]
    if family in EVALUATIONS:
        measurement = EVALUATIONS[family]
        return Found(name, measurement.inputs(name.partition(":")[2], settings), measurement.run)
    suite = find_suite(name)
    items = fingerprint([[p.uid, [repr(q) for q in p.questions]] for p in suite.paradigms])
    options = (item for p in suite.paradigms for question in p.questions for item in question.options)
    texts = tuple(dict.fromkeys(item.prefix + item.completion for item in options))
    return Found(name, {"items": items}, lambda context: _choose(suite, context), texts)


def _choose(suite: Suite, context: Context) -> SuiteResult:
    return evaluate_suite(
        context.ensemble,
        context.tokenizer,
        suite,
        context.convention,
        context.settings.batch_tokens,
        context.precision,
    )


def write_score(folder: Path, result: Result, name: str, of: Json) -> Json:
    """Write an evaluation's score, and beside it what was said of every item; return the score.

    `NAME.json` has the score and what it depends on, and is written last. Of suites, `NAME.log_probs.npz` has the
    log-probabilities of all options, `(N, K)` float32 by `<suite>/<paradigm>`, and `NAME.items.npz` the margins; of
    other evaluations `NAME.predictions.json` has what they keep of single items.
    """
    if isinstance(result, SuiteResult):
        said = {f"{result.suite}/{uid}": scores_NK for uid, scores_NK in result.log_probs.items()}
        save_arrays(folder / f"{file_name(name)}.log_probs.npz", said)
        save_arrays(folder / f"{file_name(name)}.items.npz", result.margins())
    elif result.predictions is not None:
        write_json(folder / f"{file_name(name)}.predictions.json", result.predictions, compact=True)
    score = result.to_json()
    write_json(folder / f"{file_name(name)}.json", {"of": of, "score": score})
    return score


def read_score(folder: Path, name: str, of: Json) -> Json | None:
    """Return a score measured before; None where there is none, or only one of something else."""
    path = folder / f"{file_name(name)}.json"
    if not path.is_file():
        return None
    found = read_json(path)
    return found["score"] if found.get("of") == of else None


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays as float32 to an `.npz` file, atomically."""
    buffer = io.BytesIO()
    narrow: dict[str, Any] = {key: np.asarray(value, dtype=np.float32) for key, value in arrays.items()}
    np.savez_compressed(buffer, **narrow)
    write_bytes(path, buffer.getvalue())


def file_name(name: str) -> str:
    """Make a file name of an evaluation's name, which may hold a path."""
    if name.startswith(FOLDER):
        return f"pairs-{Path(name).name}-{fingerprint(name)[:8]}"
    return name.replace(":", "-")


EVALUATIONS: Mapping[str, Measurement] = {}
"""Evaluations beside the suites, by the name before the colon. Adding one is one line here."""
