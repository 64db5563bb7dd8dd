"""The checkpoints of a model by words seen: for scores along the training, ages of acquisition, BabyLM's revisions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tutelage.base.errors import UserError
from tutelage.experiment.identity import TrainingRun
from tutelage.experiment.loading import step_of, trained
from tutelage.experiment.setup import Experiment
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import Teacher
from tutelage.recipe.words import revision, write_words
from tutelage.training import checkpoint


class WordCheckpoint(NamedTuple):
    """A model as it was after the first step that reached so many words, repeats included.

    BabyLM names the revision `chck_3M`, recipes refer to it as `student[0]@words-3M`.
    """

    name: str
    words_seen: int
    reference: Teacher
    load: Callable[[], LanguageModel]


def asked_for(experiment: Experiment, run: TrainingRun) -> list[WordCheckpoint]:
    """List the checkpoints by words seen that a recipe asks of a model, in their order; looks at no file."""
    found = []
    for words in run.plan.steps.words:
        reference = Teacher(model=run.name, seed=run.seed, checkpoint=f"words-{write_words(words)}")
        load = partial(trained, experiment, reference, run.model.reads)
        found.append(WordCheckpoint(revision(words), words, reference, load))
    return found


def word_checkpoints(experiment: Experiment, run: TrainingRun) -> list[WordCheckpoint]:
    """Return the kept checkpoints of a trained model in the order of words seen; each is loaded when it is asked for.

    Raises:
        UserError: the model is not trained, its recipe asks for no such checkpoints, or some are not there.
    """
    run.finished()
    if not (asked := asked_for(experiment, run)):
        raise UserError(
            f"{run} has no checkpoints by words seen: name some in models.{run.name}.checkpoints, within the "
            "length of the run, and train it"
        )
    kept = checkpoint.steps_in(run.folder.checkpoints)
    missing = [write_words(one.words_seen) for one in asked if step_of(experiment, one.reference) not in kept]
    if missing:
        raise UserError(
            f"{run} was trained without the checkpoints at {', '.join(missing)} words: they were not asked for then, "
            "or were deleted. Give the run another name (name=...) and train it again, or ask for those that are there"
        )
    return asked


def words_at_best(run: TrainingRun) -> int:
    """Return how many words the finished model had seen, repeats included: it is the best checkpoint by `val`."""
    done = run.finished()
    return round(done.words * done.best_step / done.steps)
