"""Which tasks of a study a model learns, and what each weighs.

The loss of a study plan (Kamzela et al. 2025, section 4) is

    text + w_J * mean over J tasks of texts and pairs + w_K * mean over K tagging tasks

where each task's loss is a mean over its labels in the batch. A task without any adds nothing, and is still counted
among J or K.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tutelage import recipe
from tutelage.base.errors import UserError, nearest
from tutelage.corpus.labels import LabelTask


def learned(what: recipe.Tasks, known: Sequence[LabelTask]) -> list[LabelTask]:
    """Return those of a corpus's tasks that a stage learns; refuse one that it does not have, or none at all."""
    names = [task.name for task in known]
    for name in what.only or ():
        if name not in names:
            raise UserError(f"objectives.tasks.only: the corpus has no task '{name}'{nearest(name, names)} "
                            f"(it has {', '.join(names) or 'none'})")  # fmt: skip
    found = [task for task in known if task.kind in what.families and (what.only is None or task.name in what.only)]
    if not found:
        labelled = ", ".join(names) or "no task at all"
        raise UserError(f"objectives.tasks: nothing to learn: the corpus has labels for {labelled}, and the families "
                        f"wanted are {', '.join(what.families)}")  # fmt: skip
    return found


def task_weights(what: recipe.Tasks, tasks: Sequence[LabelTask], labels: Mapping[str, int]) -> dict[str, float]:
    """Return what the mean loss of each task weighs in a stage's loss; `labels` counts those of the training split."""
    found: dict[str, float] = {}
    for tags, weight in ((False, what.weight), (True, what.tagging_weight or what.weight)):
        family = [task.name for task in tasks if task.tags == tags]
        # Relative to the most common task, so that no power overflows.
        most = max((labels[name] for name in family), default=0) or 1
        shares = [(labels[name] / most) ** (1 / what.temperature) if what.temperature else 1.0 for name in family]
        whole = sum(shares) or 1.0
        found |= {name: weight * share / whole for name, share in zip(family, shares, strict=True)}
    return found


def in_words(weights: Mapping[str, float], tasks: Sequence[LabelTask]) -> str:
    """Say what tasks weigh, for the log."""
    parts = []
    for tags, what in ((False, "texts and pairs"), (True, "words")):
        family = [weights.get(task.name, 0.0) for task in tasks if task.tags == tags]
        if any(family):
            parts.append(f"{sum(family):g} over {sum(weight > 0 for weight in family)} tasks of {what}")
    return ", ".join(parts)
