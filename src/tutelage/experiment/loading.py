"""Trained models of an experiment, and those that teach from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tutelage.base import machine
from tutelage.base.errors import UserError
from tutelage.base.files import fingerprint, read_json
from tutelage.base.types import Precision
from tutelage.experiment.exported import sound
from tutelage.experiment.initial import new_learner
from tutelage.experiment.setup import Experiment
from tutelage.models.build import load
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import ModelKind, Teacher
from tutelage.recipe.words import write_words
from tutelage.teaching import outside
from tutelage.teaching.signal import Combine
from tutelage.teaching.teachers import Ensemble
from tutelage.training import checkpoint
from tutelage.training.execution import ExecutionMode


def trained(experiment: Experiment, teacher: Teacher, reads: ModelKind) -> LanguageModel:
    """Load a trained model of this recipe, or one from a folder or the hub, after checking its vocabulary."""
    tokenizer = experiment.data.tokenizer
    if teacher.model not in experiment.recipe.models:
        return outside.load_teacher(teacher, tokenizer, reads, experiment.recipe.data.rows.length)
    run = experiment.run(teacher)
    if teacher.checkpoint == "best":
        return load(str(sound(experiment, run).absolute()), tokenizer, reads)
    folder = kept_checkpoint(experiment, teacher)
    if (fault := checkpoint.verify(folder)) is not None:
        raise UserError(f"'{teacher}': {folder}: {fault}; delete {run.folder.path} and run again")
    learner = new_learner(experiment, run)
    checkpoint.load_weights(folder, learner)
    return learner.model


def kept_checkpoint(experiment: Experiment, teacher: Teacher) -> Path:
    """Return the folder of a named checkpoint; refuse one that was not kept."""
    checkpoints, step = experiment.run(teacher).folder.checkpoints, step_of(experiment, teacher)
    kept = checkpoint.steps_in(checkpoints)
    if step not in kept:
        raise UserError(
            f"'{teacher}': that checkpoint was not kept; there are {kept}. Those that a recipe names are kept, "
            "at models.*.checkpoints also, or all of them with models.*.keep=all"
        )
    return checkpoint.folder_of(checkpoints, step)


def step_of(experiment: Experiment, teacher: Teacher) -> int:
    """Return the step of a checkpoint of this recipe that is named: `last`, `step-N` or `words-N`.

    Raises:
        UserError: that many words were not seen, or no checkpoint was asked for there.
    """
    run = experiment.run(teacher)
    if teacher.checkpoint == "last":
        return run.finished().steps
    if teacher.words is None:
        return int(teacher.checkpoint.removeprefix("step-"))
    kept = run.plan.steps.words
    if teacher.words not in kept:
        there = ", ".join(map(write_words, kept)) or "none"
        raise UserError(
            f"'{teacher}': no checkpoint was asked for at so many words (there are: {there}); name it in "
            f"models.{teacher.model}.checkpoints before training, within the length of the run"
        )
    return kept[teacher.words]


def ensemble_of(
    experiment: Experiment,
    teachers: Sequence[Teacher],
    reads: ModelKind,
    combine: Combine = "mean_logits",
    mode: ExecutionMode | None = None,
) -> Ensemble:
    """Load models that teach or score together; they compute in a mode if one is given, as in their student's.

    Raises:
        UserError: they are not trained, or larger than the memory that is free.
    """
    check_memory(experiment, teachers, reads)
    models = [trained(experiment, teacher, reads) for teacher in teachers]
    models = [mode.apply(model) for model in models] if mode is not None else models
    return Ensemble(models, [teacher.weight for teacher in teachers], combine, [str(teacher) for teacher in teachers])


def check_memory(experiment: Experiment, teachers: Sequence[Teacher], reads: ModelKind) -> None:
    """Refuse models that teach or score and do not fit in memory together, before any of them is loaded."""
    size = 4.0 * sum(experiment.plans.cost_of(teacher.model, reads).parameters for teacher in teachers)
    machine.check_memory(size, " and ".join(map(str, teachers)), experiment.group.device.type)


def weights_digest(experiment: Experiment, teacher: Teacher) -> str:
    """Return a digest of the weights that teach."""
    if teacher.model not in experiment.recipe.models:
        return outside.identity(teacher.model)
    run = experiment.run(teacher)
    if teacher.checkpoint == "best":
        return outside.identity(str(sound(experiment, run).absolute()))
    manifest = read_json(kept_checkpoint(experiment, teacher) / "manifest.json")
    return fingerprint([run.spec, manifest["sha256"]["model.safetensors"]])


def scoring_precision(experiment: Experiment, scorer: Teacher) -> Precision:
    """Return the arithmetic in which a model scores: its own, or for one from outside the machine's."""
    inside = scorer.model in experiment.recipe.models
    return experiment.run(scorer).precision if inside else machine.precision("auto")
