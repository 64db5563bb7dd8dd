"""The checkpoints of a model that were kept at numbers of words seen, one after the other.

For fast suites on each of them, ages of acquisition, and the revisions of a BabyLM submission.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from tutelage.errors import UserError
from tutelage.experiment import Experiment, Piece
from tutelage.models.language_model import LanguageModel
from tutelage.recipe import Teacher
from tutelage.training import checkpoint
from tutelage.word_counts import revision, write_words


class WordCheckpoint(NamedTuple):
    """A model as it was when it had seen so many words.

    Attributes:
        name: as BabyLM names the revision, `chck_3M`.
        words_seen: repeats included; it stands after the first step that reached so many.
        load: loads the model.
    """

    name: str
    words_seen: int
    load: Callable[[], LanguageModel]


def word_checkpoints(experiment: Experiment, piece: Piece) -> list[WordCheckpoint]:
    """Return the kept checkpoints of a trained model in the order of words seen; each is loaded when it is asked for.

    Raises:
        UserError: the model is not trained, its recipe asks for no such checkpoints, or some are not there.
    """
    experiment.finished(piece)
    model, steps = experiment.recipe.models[piece.name], experiment.plan_of(piece.name).words
    if not steps:
        raise UserError(
            f"{piece} has no checkpoints by words seen: name some in models.{piece.name}.checkpoints, within the "
            "length of the run, and train it"
        )
    kept = checkpoint.steps_in(experiment.run_of(piece).checkpoints)
    missing = [write_words(words) for words, step in steps.items() if step not in kept]
    if missing:
        raise UserError(
            f"{piece} was trained without the checkpoints at {', '.join(missing)} words: they were not asked for then, "
            "or were deleted. Give the run another name (name=...) and train it again, or ask for those that are there"
        )
    return [
        WordCheckpoint(
            revision(words),
            words,
            partial(
                experiment.trained,
                Teacher(model=piece.name, seed=piece.seed, checkpoint=f"words-{write_words(words)}"),
                model.reads,
            ),
        )
        for words in steps
    ]
