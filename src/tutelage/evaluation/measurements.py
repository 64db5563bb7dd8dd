"""Evaluations beside the suites: what each needs, and how it is called.

Each is a function from a `Context` to a `MeasuredResult`; the dict at the foot gives them names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage import recipe
from tutelage.base.errors import UserError
from tutelage.base.files import read_json, sha256, write_json
from tutelage.base.types import Json
from tutelage.corpus.batches import BatchSource
from tutelage.evaluation.benchmarks import data
from tutelage.evaluation.benchmarks.conventions import CONVENTIONS, Convention
from tutelage.evaluation.benchmarks.results import MeasuredResult, MeasuredValue
from tutelage.evaluation.buckets import buckets, row_losses
from tutelage.evaluation.calibration import calibration
from tutelage.evaluation.finetune.run import finetune_together, glue_average
from tutelage.evaluation.finetune.tasks import TASKS, files_of, trained_together
from tutelage.evaluation.likelihood.causal import Precision
from tutelage.evaluation.psychometrics.acquisition import (
    Checkpoint,
    as_submission,
    checkpoint_surprisals,
    contexts_cut,
    evaluate_acquisition,
)
from tutelage.evaluation.psychometrics.acquisition_2023 import evaluate_acquisition_2023, mean_surprisals
from tutelage.evaluation.psychometrics.acquisition_data import find_acquisition, read_predictors
from tutelage.evaluation.psychometrics.reading import evaluate_reading, find_reading
from tutelage.evaluation.task_heads import evaluate_heads
from tutelage.models.heads import TaskHeads
from tutelage.models.language_model import LanguageModel
from tutelage.recipe.finetune import TaskFinetuning
from tutelage.teaching.teachers import Ensemble

PREDICTORS_2023 = "english_american_predictors.csv"
PUBLISHED = "published"
"""`reading:published`: surprisals as the published code takes them, which is what result files hold."""
Need = Literal["checkpoints", "held_out", "reference", "labels"]


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


@dataclass(frozen=True, kw_only=True)
class Context:
    """What an evaluation may use.

    Attributes:
        name: as the recipe writes it.
        label: whose evaluation this is, for progress bars and messages.
        tokenizer: the models' Hugging Face fast tokenizer.
        settings: the recipe's `evaluation`.
        precision: arithmetic of the models.
        speakers: the models.
        checkpoints: of a single model, those kept by words seen; empty where none were asked for, and for ensembles.
        parts: folder for results of parts, so that what is done survives a stop; see `part`.
        held_out: makes the rows of held-out text; None where there is no corpus.
        labelled: makes the rows of labelled held-out text; None where there is none.
        heads: loads what a single model of the recipe learned beside the text; None where it learned no labels.
        reference: returns what the model that sorts held-out rows said of each, `(R, 2)`; see `row_losses`.
    """

    name: str
    label: str
    tokenizer: Any
    settings: recipe.Evaluation
    precision: Precision
    speakers: Speakers
    parts: Path
    checkpoints: Sequence[Checkpoint] = field(default=())
    held_out: Callable[[], BatchSource] | None = None
    reference: Callable[[], NDArray[np.float64]] | None = None
    labelled: Callable[[], BatchSource | None] = lambda: None
    heads: Callable[[], TaskHeads | None] = lambda: None

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
        needs: what else it is measured on: `checkpoints` of the model, `held_out` text, a `reference` model,
            held-out text with `labels`.
    """

    run: Callable[[Context], MeasuredResult]
    inputs: Callable[[str, recipe.Evaluation], Json]
    arguments: tuple[str, ...] = ()
    needs: frozenset[Need] = frozenset()


# --- reading times


def _reading(context: Context) -> MeasuredResult:
    result = evaluate_reading(
        context.ensemble,
        context.tokenizer,
        find_reading(),
        context.convention,
        as_published=context.argument == PUBLISHED,
        batch_tokens=context.settings.batch_tokens,
        precision=context.precision,
    )
    return replace(result, name=context.name)


def _reading_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    find_reading()
    how = {"surprisal": PUBLISHED} if argument else {}
    return {"file": sha256(data.find("reading") / "reading_data.csv")} | how


# --- age of acquisition


def _aoa(context: Context) -> MeasuredResult:
    known = find_acquisition()

    def said(name: str, words: int, load: Callable[[], Ensemble]) -> list[dict[str, Any]]:
        def compute() -> list[dict[str, Any]]:
            return checkpoint_surprisals(
                load(), context.tokenizer, known.contexts, name, words,
                batch_tokens=context.settings.batch_tokens, precision=context.precision,
            )  # fmt: skip

        found: list[dict[str, Any]] = context.part(name, compute)
        return found

    if context.convention.name == "2023":
        entries = said("main", 0, lambda: context.ensemble)
        predictors = read_predictors(data.find("aoa") / PREDICTORS_2023)
        return evaluate_acquisition_2023(mean_surprisals(entries), predictors)
    if not context.checkpoints:
        note = "no checkpoints: ensembles have none, a model those that models.*.checkpoints names"
        nothing = {"aoa": MeasuredValue(None, "correlation", note=note)}
        return MeasuredResult("aoa", context.convention.name, "aoa", nothing)
    rows = [entry for state in context.checkpoints for entry in said(state.name, state.words_seen, state.load)]
    surprisals = as_submission(rows, context.label, len(context.checkpoints))
    result = evaluate_acquisition(surprisals, known, context.convention, context.tokenizer)
    cut = contexts_cut(context.ensemble, context.tokenizer, known.contexts)
    if not cut:
        return result
    note = f"of {cut:,} contexts longer than the model's positions only the end was read"
    values = {key: replace(one, note="; ".join(filter(None, (one.note, note)))) for key, one in result.values.items()}
    return replace(result, values=values)


def _aoa_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    find_acquisition()
    folder = data.find("aoa")
    names = ["cdi_childes.json", PREDICTORS_2023 if settings.convention == "2023" else "cdi_human.csv"]
    if settings.convention == "2023":
        read_predictors(folder / PREDICTORS_2023)
    if settings.convention == "2024":
        raise UserError("evaluation 'aoa' has rules for 2023, 2025 and 2026, none for 2024: set evaluation.convention")
    return {"files": [sha256(folder / name) for name in names]}


# --- calibration


def _calibration(context: Context) -> MeasuredResult:
    if context.held_out is None:
        raise UserError("evaluation 'calibration' is measured on a recipe's held-out text, and there is no recipe here")
    return calibration(context.ensemble, context.held_out(), context.speakers.device, context.precision)


# --- easy and hard text


def _buckets(context: Context) -> MeasuredResult:
    chosen = context.settings.buckets
    if context.held_out is None or context.reference is None or chosen is None:
        raise UserError("evaluation 'buckets' is measured on a recipe's held-out text, and there is no recipe here")
    losses_R2 = row_losses(
        context.ensemble, context.held_out(), context.speakers.device, context.precision, f"buckets {context.label}"
    )
    return buckets(losses_R2, context.reference(), chosen.parts, str(chosen.by))


def _buckets_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    return {"parts": settings.buckets.parts if settings.buckets else None}


# --- labels of a study


def _tasks(context: Context) -> MeasuredResult:
    source = context.labelled()
    if source is None:
        raise UserError("evaluation 'tasks' needs a recipe whose corpus has labels (a study, or `starter`), with "
                        "data.separator=brackets and data.rows.kind=examples")  # fmt: skip
    label = f"tasks {context.label}"
    [model, *_] = context.fresh()
    return evaluate_heads(model.eval(), context.heads(), source, context.speakers.device, context.precision, label)


# --- fine-tuning


def _glue(context: Context) -> MeasuredResult:
    """Fine-tune on one task or on all that the recipe names; means over the seeds of fine-tuning."""
    settings = context.settings.finetune
    tasks = (context.argument,) if context.argument else settings.tasks
    by_seed: list[dict[str, MeasuredResult]] = []
    for seed in settings.seed_list:
        results: dict[str, MeasuredResult] = {}
        for group in trained_together(tasks):
            kept = context.part(f"{'+'.join(group)}-{seed}", partial(_tuned, context, group, seed))
            results |= {name: _measured(name, result) for name, result in kept.items()}
        by_seed.append(results)
    means = {name: _mean([results[name] for results in by_seed]) for name in tasks}
    predictions = {name: {"predictions": by_seed[0][name].predictions} for name in tasks}
    if context.argument:
        only = means[context.argument]
        return MeasuredResult(context.name, settings.rules, only.headline, only.values, predictions)
    values = {"average": glue_average(means, settings.rules)}
    values |= {name: result.values[result.headline] for name, result in means.items()}
    return MeasuredResult(context.name, settings.rules, "average", values, predictions)


def _tuned(context: Context, group: tuple[str, ...], seed: int) -> Json:
    settings = context.settings.finetune
    found = finetune_together(context.fresh(), context.tokenizer, group, settings, seed, label=context.label)
    return {name: result.to_json() | {"predictions": result.predictions} for name, result in found.items()}


def _measured(name: str, kept: Json) -> MeasuredResult:
    values = {key: MeasuredValue(**value) for key, value in kept["values"].items()}
    return MeasuredResult(name, kept["convention"], kept["headline"], values, kept["predictions"])


def _mean(results: Sequence[MeasuredResult]) -> MeasuredResult:
    """Average a task's values over seeds of fine-tuning."""
    first = results[0]
    if len(results) == 1:
        return first
    values = {}
    for key, value in first.values.items():
        found = [result.values[key].value for result in results]
        known = [number for number in found if number is not None]
        note = f"mean of {len(results)} fine-tunings; {value.note}".rstrip("; ")
        mean = fmean(known) if len(known) == len(found) else None
        values[key] = MeasuredValue(**asdict(value) | {"value": mean, "note": note})
    return MeasuredResult(first.name, first.convention, first.headline, values, first.predictions)


def _glue_inputs(argument: str, settings: recipe.Evaluation) -> Json:
    chosen = settings.finetune
    tasks = (argument,) if argument else chosen.tasks
    files = {name: [sha256(path) for path in files_of(name)] for name in tasks}
    # What counts for a task, whatever way the recipe says it.
    return {
        "files": files,
        "rules": chosen.rules,
        "seeds": list(chosen.seed_list),
        "settings": {name: _told(chosen.of(name)) for name in tasks},
    }


def _told(settings: TaskFinetuning) -> Json:
    """Write settings down; those of later versions only where they were set, or older scores would be measured anew."""
    return settings.model_dump(mode="json", exclude={"evaluate_end"} if settings.evaluate_end else None)


MEASUREMENTS: Mapping[str, Measurement] = {
    "reading": Measurement(_reading, _reading_inputs, arguments=(PUBLISHED,)),
    "aoa": Measurement(_aoa, _aoa_inputs, needs=frozenset({"checkpoints"})),
    "calibration": Measurement(_calibration, lambda argument, settings: {}, needs=frozenset({"held_out"})),
    "buckets": Measurement(_buckets, _buckets_inputs, needs=frozenset({"held_out", "reference"})),
    "tasks": Measurement(_tasks, lambda argument, settings: {}, needs=frozenset({"held_out", "labels"})),
    "glue": Measurement(_glue, _glue_inputs, arguments=tuple(TASKS)),
}
"""Evaluations beside the suites, by the name before the colon."""
