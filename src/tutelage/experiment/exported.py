"""The finished model of a run, its folder `hf/`: written, compared with its digests whenever it is read, and written
again from its checkpoint where it is damaged."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from tutelage.base.checksums import damage, digests
from tutelage.base.errors import UserError
from tutelage.base.progress import console
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.initial import new_learner
from tutelage.experiment.setup import Experiment
from tutelage.models.build import save
from tutelage.report.model_card import model_card
from tutelage.training import checkpoint
from tutelage.training.objectives import Learner
from tutelage.training.outcome import Finished


def export(experiment: Experiment, run: TrainingRun, learner: Learner, done: Finished) -> None:
    """Write a run's best weights for stock transformers, then `finished.json` with the digests of what is kept."""
    folder, kept = run.folder, learner.heads if run.model.heads == "kept" else None
    save(learner.model, experiment.data.tokenizer, folder.hf, model_card(experiment.recipe, run.name, run.seed, done),
         kept)  # fmt: skip
    files = digests(folder.path, folder.hf.name, folder.metrics.name, folder.timing.name)
    replace(done, files=files).write(folder.finished)


def best(experiment: Experiment, run: TrainingRun, step: int) -> Learner:
    """Load the best checkpoint, that of a step.

    Raises:
        UserError: it is damaged or not there.
    """
    folder = checkpoint.folder_of(run.folder.checkpoints, step)
    if (fault := checkpoint.verify(folder)) is not None:
        raise UserError(f"{run}: the best checkpoint, {folder}, cannot be used: {fault}; restore it, or delete "
                        f"{run.folder.path} and run again")  # fmt: skip
    learner = new_learner(experiment, run)
    checkpoint.load_weights(folder, learner)
    return learner


def sound(experiment: Experiment, run: TrainingRun) -> Path:
    """Return the folder of a finished model, just as it was written.

    A damaged one is written again from the best checkpoint, and kept beside it as `hf-damaged/`.

    Raises:
        UserError: the run is not finished, or its model and its checkpoint are both damaged.
    """
    if _damage(run) is not None:
        if not experiment.group.is_main:
            raise UserError(f"{run.folder.hf} is damaged; run again in one process, which writes it anew")
        with run.folder.locked(waiting=f"{run}: its model is damaged; waiting for the process that works on it"):
            # Another process may have written it meanwhile.
            if (fault := _damage(run)) is not None:
                _mend(experiment, run, fault)
    return run.folder.hf


def _damage(run: TrainingRun) -> str | None:
    files, folder = run.finished().files, run.folder
    if files is None:
        _tell_unchecked(folder.path.parent.parent)
        return None
    return damage(folder.path, files, f"{folder.hf.name}/")


@lru_cache(maxsize=64)
def _tell_unchecked(experiment: Path) -> None:
    console.print(f"{experiment}: models that an earlier version finished have no checksums, and are used unchecked")


def _mend(experiment: Experiment, run: TrainingRun, fault: str) -> None:
    done, hf = run.finished(), run.folder.hf
    try:
        learner = best(experiment, run, done.best_step)
    except UserError as error:
        said = f"the finished model is damaged ({fault}), and cannot be exported again"
        raise UserError(f"{run}: {said}. {error}") from error
    kept = ""
    if hf.exists():
        number = 1
        while (aside := hf.with_name("hf-damaged" + (f"-{number}" if number > 1 else ""))).exists():
            number += 1
        hf.rename(aside)
        kept = f"; the damaged folder is kept as {aside.name}/"
    export(experiment, run, learner, done)
    console.print(f"[yellow]{run}: {hf} was damaged ({fault}), and is exported again from checkpoint "
                  f"step-{done.best_step}{kept}")  # fmt: skip
