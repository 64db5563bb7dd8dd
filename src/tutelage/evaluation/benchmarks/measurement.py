"""What a measurement is: a function from a `Context` to a `MeasuredResult`, and what decides its result.

They are the evaluations that are no choice between options, each in a file of its own; `named` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedTokenizerFast

from tutelage import recipe
from tutelage.base.files import read_json, write_json
from tutelage.base.types import Floats, Json, Precision
from tutelage.corpus.batches import BatchSource
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Convention
from tutelage.evaluation.benchmarks.results import MeasuredResult
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.teaching.teachers import Ensemble

Need = Literal["checkpoints", "held_out", "reference", "labels"]


class EvaluatedModels:
    """The models that are evaluated, loaded when they are first needed; `load` loads them at each call again."""

    def __init__(self, load: Callable[[], list[LanguageModel]], device: torch.device) -> None:
        self.load, self.device = load, device

    @cached_property
    def ensemble(self) -> Ensemble:
        """All of them as one, frozen; shared by everything that does not train them."""
        return Ensemble(self.load()).to(self.device)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A model at some point of its training."""

    name: str
    """Such as `chck_10M`."""
    words_seen: int
    """Words trained on so far, repeats counted."""
    load: Callable[[], Ensemble]
    """Makes the model; called once, when its turn has come."""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an evaluation may use."""

    name: str
    """As the recipe writes it."""
    label: str
    """Whose evaluation this is, for progress bars and messages."""
    tokenizer: PreTrainedTokenizerFast
    settings: recipe.Evaluation
    precision: Precision
    models: EvaluatedModels
    parts: Path
    """Folder for results of parts, so that what is done survives a stop; see `part`."""
    argument: str = ""
    """What stands behind the name's colon."""
    checkpoints: Sequence[Checkpoint] = field(default=())
    """Of a single model, those kept by words seen; empty where none were asked for, and for ensembles."""
    held_out: Callable[[], BatchSource] | None = None
    """Makes the rows of held-out text; None where there is no corpus."""
    reference: Callable[[], Floats] | None = None
    """Returns the losses of the model that sorts held-out rows, `(R, 2)`; see `row_losses`."""
    labelled: Callable[[], BatchSource | None] = lambda: None
    """Makes the rows of labelled held-out text; None where there is none."""
    heads: Callable[[], TaskHeads | None] = lambda: None
    """Loads what a single model of the recipe learned beside the text; None where it learned no labels."""

    @property
    def convention(self) -> Convention:
        """The year's rules."""
        return CONVENTIONS[self.settings.convention]

    @property
    def ensemble(self) -> Ensemble:
        """The models as one, frozen."""
        return self.models.ensemble

    def fresh(self) -> list[LanguageModel]:
        """Load the models again, for an evaluation that changes their weights."""
        return [model.to(self.models.device) for model in self.models.load()]

    def part(self, key: str, compute: Callable[[], Any]) -> Any:
        """Return a part's result (JSON), computed once and kept until the evaluation is done; `key` names a file."""
        path = self.parts / f"{key}.json"
        if not path.is_file():
            write_json(path, compute())
        return read_json(path)


@dataclass(frozen=True)
class Measurement:
    """An evaluation that is no choice between options."""

    run: Callable[[Context], MeasuredResult]
    inputs: Callable[[str, recipe.Evaluation], Json] = lambda argument, settings: {}
    """By argument and settings, everything that decides the result beside the model and the year, as JSON: digests of
    the files it reads, settings of its own. Called before any training; raises a `UserError` for an argument that does
    not exist or files that are missing."""
    needs: frozenset[Need] = frozenset()
    """What else it is measured on: `checkpoints` of the model, `held_out` text, a `reference` model, held-out text with
    `labels`."""
